// What RabbitMQ's Java client writes into headers.

import com.rabbitmq.client.*;
import java.math.BigDecimal;
import java.util.*;

public class Fidelity {
  static GetResponse take(Channel channel, String queue) throws Exception {
    for (int attempt = 0; attempt < 500; attempt++) {
      GetResponse got = channel.basicGet(queue, false);
      if (got != null) return got;
      Thread.sleep(20);
    }
    throw new AssertionError("nothing came to " + queue);
  }

  public static void main(String[] arguments) throws Exception {
    Map<String, Object> headers = new LinkedHashMap<>();
    headers.put("boolean", true);
    headers.put("byte", (byte) -7);
    headers.put("short", (short) -300);
    headers.put("int", -70_000);
    headers.put("long", 1L << 40);
    headers.put("float", 0.1f);
    headers.put("double", 0.1);
    headers.put("decimal", new BigDecimal("3.14"));
    headers.put("text", "grüße");
    headers.put("bytes", new byte[] {0, -1});
    headers.put("time", new Date(1_700_000_000_000L));
    headers.put("nothing", null);
    headers.put("list", Arrays.asList(1, "two", Arrays.asList(null, true), Map.of("k", 2L)));
    headers.put("table", Map.of("z", Map.of("deep", (short) -1)));
    ConnectionFactory factory = new ConnectionFactory();
    factory.setUri(System.getenv("AMQP_URL"));
    try (Connection connection = factory.newConnection()) {
      Channel channel = connection.createChannel();
      var properties =
          new AMQP.BasicProperties.Builder().headers(headers).priority(3).messageId("m").build();
      channel.basicPublish("", "fidelity", properties, new byte[] {1});
      channel.basicReject(take(channel, "fidelity").getEnvelope().getDeliveryTag(), false);
      channel.basicAck(take(channel, "fidelity.dead").getEnvelope().getDeliveryTag(), false);
    }
  }
}
