// RabbitMQ's Java client, used as its guide shows.
//
// AMQP_URL says where the broker is (AMQPS_URL and CERTIFICATES for TLS); arguments name scenarios,
// none means all. It prints a line of JSON for each: name, outcome, detail, seconds.

import com.rabbitmq.client.*;
import com.rabbitmq.client.impl.LongStringHelper;
import java.io.*;
import java.math.BigDecimal;
import java.net.*;
import java.nio.charset.StandardCharsets;
import java.nio.file.*;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.util.*;
import java.util.concurrent.*;
import java.util.concurrent.atomic.AtomicInteger;
import javax.net.ssl.*;

public class Scenarios {
  interface Scenario {
    void run(Stage stage) throws Exception;
  }

  static final String URL = System.getenv("AMQP_URL");
  static final long PATIENCE_MS = 60_000;
  /** The broker gives a client up after two of them. */
  static final int HEARTBEAT_S = 4;
  static final Map<String, Scenario> ALL = new LinkedHashMap<>();

  /** What one scenario has opened; closed at its end. */
  static class Stage implements AutoCloseable {
    final List<AutoCloseable> opened = new ArrayList<>();

    ConnectionFactory factory() throws Exception {
      ConnectionFactory factory = new ConnectionFactory();
      factory.setUri(URL);
      factory.setHandshakeTimeout((int) PATIENCE_MS);
      factory.setAutomaticRecoveryEnabled(false);
      return factory;
    }

    Connection connect(ConnectionFactory factory) throws Exception {
      Connection connection = factory.newConnection("scenario");
      opened.add(() -> connection.close(2_000));
      return connection;
    }

    Channel channel() throws Exception {
      return connect(factory()).createChannel();
    }

    @Override
    public void close() {
      Collections.reverse(opened);
      for (AutoCloseable each : opened) {
        try {
          each.close();
        } catch (Exception alreadyClosed) {
          // It was closed by the scenario, or by the broker.
        }
      }
    }
  }

  static byte[] bytes(String text) {
    return text.getBytes(StandardCharsets.UTF_8);
  }

  static String text(GetResponse response) {
    return response == null ? null : new String(response.getBody(), StandardCharsets.UTF_8);
  }

  static void check(boolean holds, String what) {
    if (!holds) throw new AssertionError(what);
  }

  static void same(Object expected, Object found) {
    if (!Objects.deepEquals(expected, found)) {
      throw new AssertionError("expected " + show(expected) + ", found " + show(found));
    }
  }

  static String show(Object value) {
    return value instanceof Object[] ? Arrays.deepToString((Object[]) value) : String.valueOf(value);
  }

  static <T> T take(BlockingQueue<T> box) throws Exception {
    T found = box.poll(PATIENCE_MS, TimeUnit.MILLISECONDS);
    check(found != null, "nothing came");
    return found;
  }

  static void until(Callable<Boolean> done, String what) throws Exception {
    long end = System.currentTimeMillis() + PATIENCE_MS;
    while (!done.call()) {
      check(System.currentTimeMillis() < end, "waited in vain for " + what);
      Thread.sleep(20);
    }
  }

  static BlockingQueue<Delivery> consume(Channel channel, String queue, boolean autoAck)
      throws IOException {
    BlockingQueue<Delivery> box = new LinkedBlockingQueue<>();
    channel.basicConsume(queue, autoAck, (tag, delivery) -> box.add(delivery), tag -> {});
    return box;
  }

  static String body(Delivery delivery) {
    return new String(delivery.getBody(), StandardCharsets.UTF_8);
  }

  /** The broker's close of a channel, or of a whole connection, that this provokes. */
  static Object[] refused(Callable<?> provoke) throws Exception {
    try {
      provoke.call();
    } catch (IOException | ShutdownSignalException error) {
      Throwable cause = error instanceof IOException ? error.getCause() : error;
      ShutdownSignalException signal = (ShutdownSignalException) cause;
      if (signal.getReason() instanceof AMQP.Connection.Close close) {
        return new Object[] {"connection", close.getReplyCode(), close.getReplyText()};
      }
      AMQP.Channel.Close close = (AMQP.Channel.Close) signal.getReason();
      return new Object[] {"channel", close.getReplyCode(), close.getReplyText()};
    }
    throw new AssertionError("it was not refused");
  }

  static {
    ALL.put("publish_and_get", stage -> {
      Channel channel = stage.channel();
      String queue = channel.queueDeclare().getQueue();
      same(null, channel.basicGet(queue, true));
      channel.basicPublish("", queue, MessageProperties.PERSISTENT_TEXT_PLAIN, bytes("1"));
      channel.basicPublish("", queue, null, bytes("2"));
      until(() -> channel.messageCount(queue) == 2, "both");
      GetResponse first = channel.basicGet(queue, false);
      same("1", text(first));
      same(1, first.getMessageCount());
      same("text/plain", first.getProps().getContentType());
      same(queue, first.getEnvelope().getRoutingKey());
      channel.basicAck(first.getEnvelope().getDeliveryTag(), false);
      same("2", text(channel.basicGet(queue, true)));
    });

    ALL.put("consume_and_acknowledge", stage -> {
      Channel channel = stage.channel();
      String queue = channel.queueDeclare("", false, true, false, null).getQueue();
      for (int n = 0; n < 200; n++) channel.basicPublish("", queue, null, bytes("" + n));
      Channel reader = channel.getConnection().createChannel();
      BlockingQueue<Delivery> box = consume(reader, queue, false);
      for (int n = 0; n < 200; n++) {
        Delivery delivery = take(box);
        same("" + n, body(delivery));
        same((long) n + 1, delivery.getEnvelope().getDeliveryTag());
        check(!delivery.getEnvelope().isRedeliver(), "not delivered before");
      }
      reader.basicAck(100, true);
      reader.close();
      same(100L, channel.messageCount(queue));
      GetResponse next = channel.basicGet(queue, true);
      same("100", text(next));
      check(next.getEnvelope().isRedeliver(), "delivered before");
    });

    ALL.put("a_cancelled_consumer_and_a_deleted_queue", stage -> {
      Channel channel = stage.channel();
      String queue = channel.queueDeclare("", false, true, false, null).getQueue();
      BlockingQueue<String> cancelled = new LinkedBlockingQueue<>();
      String tag = channel.basicConsume(queue, (t, d) -> {}, cancelled::add);
      channel.basicCancel(tag);
      String other = channel.basicConsume(queue, (t, d) -> {}, cancelled::add);
      same(1, channel.queueDeclarePassive(queue).getConsumerCount());
      channel.queueDelete(queue);
      same(other, take(cancelled));
    });

    ALL.put("confirms_one_by_one_and_in_bulk", stage -> {
      Channel channel = stage.channel();
      String queue = channel.queueDeclare().getQueue();
      channel.confirmSelect();
      same(1L, channel.getNextPublishSeqNo());
      for (int n = 0; n < 20; n++) {
        channel.basicPublish("", queue, MessageProperties.PERSISTENT_BASIC, bytes("x"));
        check(channel.waitForConfirms(PATIENCE_MS), "confirmed");
      }
      for (int n = 0; n < 1000; n++) channel.basicPublish("", queue, null, bytes("x"));
      channel.waitForConfirmsOrDie(PATIENCE_MS);
      same(1020L, channel.messageCount(queue));
    });

    ALL.put("confirms_by_listener", stage -> {
      Channel channel = stage.channel();
      String queue = channel.queueDeclare().getQueue();
      ConcurrentNavigableMap<Long, String> outstanding = new ConcurrentSkipListMap<>();
      List<Long> nacked = Collections.synchronizedList(new ArrayList<>());
      channel.confirmSelect();
      channel.addConfirmListener(
          (number, multiple) -> {
            if (multiple) outstanding.headMap(number, true).clear();
            else outstanding.remove(number);
          },
          (number, multiple) -> nacked.add(number));
      for (int n = 0; n < 500; n++) {
        outstanding.put(channel.getNextPublishSeqNo(), "x");
        channel.basicPublish("", queue, MessageProperties.PERSISTENT_BASIC, bytes("x"));
      }
      until(outstanding::isEmpty, "all confirms");
      same(List.of(), nacked);
    });

    ALL.put("a_full_queue_nacks", stage -> {
      Channel channel = stage.channel();
      Map<String, Object> arguments = Map.of("x-max-length", 2, "x-overflow", "reject-publish");
      String queue = channel.queueDeclare("", false, true, true, arguments).getQueue();
      channel.confirmSelect();
      for (int n = 0; n < 2; n++) {
        channel.basicPublish("", queue, null, bytes("x"));
        check(channel.waitForConfirms(PATIENCE_MS), "confirmed");
      }
      channel.basicPublish("", queue, null, bytes("one too many"));
      check(!channel.waitForConfirms(PATIENCE_MS), "nacked");
    });

    ALL.put("unroutable_messages_come_back_before_their_confirm", stage -> {
      Channel channel = stage.channel();
      List<String> said = Collections.synchronizedList(new ArrayList<>());
      channel.addReturnListener(back -> said.add(
          back.getReplyCode() + " " + back.getReplyText() + " " + back.getRoutingKey()
              + " " + new String(back.getBody()) + " " + back.getProperties().getMessageId()));
      channel.addConfirmListener((number, multiple) -> said.add("ack"), (n, m) -> said.add("nack"));
      channel.confirmSelect();
      var properties = new AMQP.BasicProperties.Builder().messageId("m").build();
      channel.basicPublish("amq.direct", "nowhere", true, properties, bytes("lost"));
      until(() -> said.size() == 2, "both");
      same(List.of("312 NO_ROUTE nowhere lost m", "ack"), said);
    });

    ALL.put("nack_and_reject", stage -> {
      Channel channel = stage.channel();
      String queue = channel.queueDeclare().getQueue();
      for (String body : "1 2 3 4".split(" ")) channel.basicPublish("", queue, null, bytes(body));
      until(() -> channel.messageCount(queue) == 4, "all");
      for (int n = 0; n < 4; n++) channel.basicGet(queue, false);
      channel.basicReject(4, false);
      channel.basicAck(2, false);
      channel.basicNack(3, true, true);
      GetResponse first = channel.basicGet(queue, true);
      same("1", text(first));
      check(first.getEnvelope().isRedeliver(), "again");
      same("3", text(channel.basicGet(queue, true)));
      same(null, channel.basicGet(queue, true));
    });

    ALL.put("prefetch_for_each_consumer_and_for_the_channel", stage -> {
      Channel channel = stage.channel();
      String queue = channel.queueDeclare().getQueue();
      for (int n = 0; n < 20; n++) channel.basicPublish("", queue, null, bytes("" + n));
      channel.basicQos(3);
      BlockingQueue<Delivery> box = consume(channel, queue, false);
      for (int n = 0; n < 3; n++) take(box);
      same(null, box.poll(200, TimeUnit.MILLISECONDS));
      channel.basicAck(3, true);
      for (int n = 0; n < 3; n++) take(box);
      same(null, box.poll(200, TimeUnit.MILLISECONDS));
      Channel other = channel.getConnection().createChannel();
      other.basicQos(0, 4, true);
      BlockingQueue<Delivery> left = consume(other, queue, false);
      BlockingQueue<Delivery> right = consume(other, queue, false);
      until(() -> left.size() + right.size() == 4, "the channel's window");
      Thread.sleep(200);
      same(4, left.size() + right.size());
    });

    ALL.put("recover_delivers_again", stage -> {
      Channel channel = stage.channel();
      String queue = channel.queueDeclare().getQueue();
      channel.basicPublish("", queue, null, bytes("x"));
      BlockingQueue<Delivery> box = consume(channel, queue, false);
      check(!take(box).getEnvelope().isRedeliver(), "first");
      channel.basicRecover(true);
      check(take(box).getEnvelope().isRedeliver(), "second");
    });

    ALL.put("transactions", stage -> {
      Channel channel = stage.channel();
      String queue = channel.queueDeclare().getQueue();
      channel.txSelect();
      channel.basicPublish("", queue, null, bytes("gone"));
      channel.txRollback();
      channel.basicPublish("", queue, null, bytes("kept"));
      same(0L, channel.messageCount(queue));
      channel.txCommit();
      same("kept", text(channel.basicGet(queue, true)));
    });

    ALL.put("rpc_client_and_server", stage -> {
      Channel serving = stage.channel();
      String queue = serving.queueDeclare().getQueue();
      RpcServer server = new RpcServer(serving, queue) {
        @Override
        public byte[] handleCall(Delivery request, AMQP.BasicProperties reply) {
          return bytes(body(request).toUpperCase());
        }
      };
      Proxy.start(() -> server.mainloop());
      Channel calling = stage.channel();
      RpcClient client = new RpcClient(new RpcClientParams()
          .channel(calling).exchange("").routingKey(queue).timeout((int) PATIENCE_MS));
      for (int n = 0; n < 50; n++) same("CALL " + n, client.stringCall("call " + n));
      client.close();
      server.terminateMainloop();
    });

    ALL.put("exchanges_and_bindings_between_them", stage -> {
      Channel channel = stage.channel();
      String suffix = UUID.randomUUID().toString();
      String fan = "fan-" + suffix, topic = "topic-" + suffix, headers = "headers-" + suffix;
      channel.exchangeDeclare(fan, BuiltinExchangeType.FANOUT, false, true, null);
      channel.exchangeDeclare(topic, BuiltinExchangeType.TOPIC, false, true, null);
      channel.exchangeDeclare(headers, BuiltinExchangeType.HEADERS, false, true, null);
      String one = channel.queueDeclare().getQueue(), two = channel.queueDeclare().getQueue();
      channel.queueBind(one, fan, "");
      channel.exchangeBind(fan, topic, "a.#");
      channel.queueBind(two, headers, "", Map.of("x-match", "any", "k", 1, "l", "v"));
      channel.confirmSelect();
      channel.basicPublish(topic, "a.b.c", null, bytes("by topic"));
      channel.basicPublish(topic, "b", null, bytes("nowhere"));
      var properties = new AMQP.BasicProperties.Builder().headers(Map.of("l", "v")).build();
      channel.basicPublish(headers, "", properties, bytes("by headers"));
      channel.waitForConfirmsOrDie(PATIENCE_MS);
      same("by topic", text(channel.basicGet(one, true)));
      same(null, channel.basicGet(one, true));
      same("by headers", text(channel.basicGet(two, true)));
      channel.exchangeUnbind(fan, topic, "a.#");
      channel.queueUnbind(one, fan, "");
      same("channel", refused(() -> channel.exchangeDeclarePassive(fan))[0]);
    });

    ALL.put("dead_letters_and_time_to_live", stage -> {
      Channel channel = stage.channel();
      String dead = channel.queueDeclare().getQueue();
      Map<String, Object> arguments = Map.of("x-dead-letter-exchange", "",
          "x-dead-letter-routing-key", dead, "x-message-ttl", 50);
      String queue = channel.queueDeclare("", false, true, true, arguments).getQueue();
      BlockingQueue<Delivery> box = consume(channel, dead, true);
      channel.basicPublish("", queue, null, bytes("x"));
      Map<String, Object> found = take(box).getProperties().getHeaders();
      Map<?, ?> death = (Map<?, ?>) ((List<?>) found.get("x-death")).get(0);
      same("expired", death.get("reason").toString());
      same(1L, death.get("count"));
      check(death.get("time") instanceof Date, "a time");
      same(queue, found.get("x-first-death-queue").toString());
    });

    ALL.put("header_types", stage -> {
      Channel channel = stage.channel();
      String queue = channel.queueDeclare().getQueue();
      Map<String, Object> headers = new LinkedHashMap<>();
      headers.put("boolean", true);
      headers.put("byte", (byte) -7);
      headers.put("short", (short) -300);
      headers.put("int", -70_000);
      headers.put("long", 1L << 40);
      headers.put("float", 0.1f);
      headers.put("double", 0.1);
      headers.put("decimal", new BigDecimal("3.14"));
      headers.put("text", LongStringHelper.asLongString("grüße"));
      headers.put("bytes", new byte[] {0, -1, 65});
      headers.put("time", new Date(1_700_000_000_000L));
      headers.put("nothing", null);
      headers.put("list", List.of(1, List.of(true), Map.of("k", 2L)));
      headers.put("table", Map.of("deep", Map.of("deeper", (short) 1)));
      var properties = new AMQP.BasicProperties.Builder().headers(headers).build();
      channel.basicPublish("", queue, properties, new byte[0]);
      until(() -> channel.messageCount(queue) == 1, "it");
      Map<String, Object> found = channel.basicGet(queue, true).getProps().getHeaders();
      same(headers.keySet(), found.keySet());
      for (String name : headers.keySet()) same(headers.get(name), found.get(name));
    });

    ALL.put("every_property", stage -> {
      Channel channel = stage.channel();
      String queue = channel.queueDeclare().getQueue();
      var sent = new AMQP.BasicProperties("type", "encoding", Map.of(), 2, 5, "correlation",
          "reply", "60000", "id", new Date(1_700_000_000_000L), "kind", "guest", "app", "cluster");
      channel.basicPublish("", queue, sent, new byte[0]);
      until(() -> channel.messageCount(queue) == 1, "it");
      same(sent, channel.basicGet(queue, true).getProps());
    });

    ALL.put("bodies_of_all_sizes", stage -> {
      Channel channel = stage.channel();
      String queue = channel.queueDeclare().getQueue();
      BlockingQueue<Delivery> box = consume(channel, queue, true);
      for (int size : new int[] {0, 1, 131_064, 131_065, 1 << 20, 20 << 20}) {
        byte[] sent = new byte[size];
        new Random(size).nextBytes(sent);
        channel.basicPublish("", queue, null, sent);
        same(sent, take(box).getBody());
      }
    });

    ALL.put("small_frames", stage -> {
      ConnectionFactory factory = stage.factory();
      factory.setRequestedFrameMax(4096);
      Connection connection = stage.connect(factory);
      same(4096, connection.getFrameMax());
      Channel channel = connection.createChannel();
      String queue = channel.queueDeclare().getQueue();
      byte[] sent = new byte[300_000];
      new Random(1).nextBytes(sent);
      channel.basicPublish("", queue, null, sent);
      same(sent, take(consume(channel, queue, true)).getBody());
    });

    ALL.put("errors_of_channels", stage -> {
      Connection connection = stage.connect(stage.factory());
      String vhost = "in vhost '/'";
      same(new Object[] {"channel", 404, "NOT_FOUND - no queue 'missing' " + vhost},
          refused(() -> connection.createChannel().queueDeclarePassive("missing")));
      same(new Object[] {"channel", 403, "ACCESS_REFUSED - exchange name 'amq.mine' contains"
          + " reserved prefix 'amq.*'"},
          refused(() -> connection.createChannel().exchangeDeclare("amq.mine", "direct")));
      String queue = "errors-" + UUID.randomUUID();
      connection.createChannel().queueDeclare(queue, false, true, true, null);
      same(406, refused(() -> connection.createChannel()
          .queueDeclare(queue, false, true, false, null))[1]);
      Channel acking = connection.createChannel();
      BlockingQueue<ShutdownSignalException> closed = new LinkedBlockingQueue<>();
      acking.addShutdownListener(closed::add);
      acking.basicAck(42, false);
      AMQP.Channel.Close close = (AMQP.Channel.Close) take(closed).getReason();
      same("406 PRECONDITION_FAILED - unknown delivery tag 42",
          close.getReplyCode() + " " + close.getReplyText());
      Connection other = stage.connect(stage.factory());
      same(405, refused(() -> other.createChannel().basicGet(queue, true))[1]);
      check(connection.isOpen() && other.isOpen(), "the connections go on");
    });

    ALL.put("errors_of_connections", stage -> {
      Channel channel = stage.channel();
      String queue = channel.queueDeclare().getQueue();
      channel.basicConsume(queue, true, "tag", (t, d) -> {}, t -> {});
      same(new Object[] {"connection", 530, "NOT_ALLOWED - attempt to reuse consumer tag 'tag'"},
          refused(() -> channel.basicConsume(queue, true, "tag", (t, d) -> {}, t -> {})));
      until(() -> !channel.getConnection().isOpen(), "the end");
      ConnectionFactory wrong = stage.factory();
      wrong.setPassword("wrong");
      try {
        stage.connect(wrong);
        throw new AssertionError("it was let in");
      } catch (AuthenticationFailureException error) {
        check(error.getMessage().startsWith("ACCESS_REFUSED - Login was refused using"), "" + error);
      }
      ConnectionFactory elsewhere = stage.factory();
      elsewhere.setVirtualHost("missing");
      same(new Object[] {"connection", 530, "NOT_ALLOWED - vhost missing not found"},
          refused(() -> stage.connect(elsewhere)));
    });

    ALL.put("automatic_recovery_of_connection_and_topology", stage -> {
      URI broker = new URI(URL);
      Proxy proxy = new Proxy(broker);
      stage.opened.add(proxy);
      ConnectionFactory factory = stage.factory();
      factory.setHost("127.0.0.1");
      factory.setPort(proxy.listener.getLocalPort());
      factory.setAutomaticRecoveryEnabled(true);
      factory.setNetworkRecoveryInterval(100);
      Connection connection = stage.connect(factory);
      CountDownLatch recovered = new CountDownLatch(1);
      ((Recoverable) connection).addRecoveryListener(new RecoveryListener() {
        @Override
        public void handleRecovery(Recoverable what) {
          recovered.countDown();
        }

        @Override
        public void handleRecoveryStarted(Recoverable what) {}
      });
      Channel channel = connection.createChannel();
      channel.basicQos(5);
      channel.confirmSelect();
      String exchange = "recovered-" + UUID.randomUUID();
      channel.exchangeDeclare(exchange, "direct", false, true, null);
      String queue = channel.queueDeclare().getQueue();
      channel.queueBind(queue, exchange, "key");
      BlockingQueue<Delivery> box = consume(channel, queue, false);
      channel.basicPublish(exchange, "key", null, bytes("before"));
      same("before", body(take(box)));
      proxy.cut();
      check(recovered.await(PATIENCE_MS, TimeUnit.MILLISECONDS), "recovered");
      channel.basicPublish(exchange, "key", null, bytes("after"));
      channel.waitForConfirmsOrDie(PATIENCE_MS);
      Delivery after = take(box);
      same("after", body(after));
      channel.basicAck(after.getEnvelope().getDeliveryTag(), false);
      same(2, proxy.accepted.get());
    });

    ALL.put("heartbeats_keep_a_quiet_connection", stage -> {
      ConnectionFactory factory = stage.factory();
      factory.setRequestedHeartbeat(HEARTBEAT_S);
      Connection connection = stage.connect(factory);
      same(HEARTBEAT_S, connection.getHeartbeat());
      Thread.sleep(3_200 * HEARTBEAT_S);
      check(connection.isOpen(), "it goes on");
      connection.createChannel().queueDeclare();
    });

    ALL.put("many_channels_on_one_connection", stage -> {
      Connection connection = stage.connect(stage.factory());
      ExecutorService threads = Executors.newFixedThreadPool(8);
      stage.opened.add(threads::shutdownNow);
      List<Future<Integer>> done = new ArrayList<>();
      for (int n = 0; n < 40; n++) {
        done.add(threads.submit(() -> {
          Channel channel = connection.createChannel();
          String queue = channel.queueDeclare().getQueue();
          BlockingQueue<Delivery> box = consume(channel, queue, true);
          for (int m = 0; m < 50; m++) channel.basicPublish("", queue, null, bytes("" + m));
          for (int m = 0; m < 50; m++) same("" + m, body(take(box)));
          return channel.getChannelNumber();
        }));
      }
      Set<Integer> numbers = new HashSet<>();
      for (Future<Integer> each : done) numbers.add(each.get());
      same(40, numbers.size());
    });

    ALL.put("tls", stage -> {
      ConnectionFactory factory = new ConnectionFactory();
      factory.setUri(System.getenv("AMQPS_URL"));
      factory.setAutomaticRecoveryEnabled(false);
      factory.useSslProtocol(trusting("ca.pem"));
      factory.enableHostnameVerification();
      Channel channel = stage.connect(factory).createChannel();
      String queue = channel.queueDeclare().getQueue();
      byte[] sent = new byte[1 << 20];
      new Random(2).nextBytes(sent);
      channel.basicPublish("", queue, null, sent);
      same(sent, take(consume(channel, queue, true)).getBody());
    });

    ALL.put("tls_with_an_authority_that_is_not_trusted", stage -> {
      ConnectionFactory factory = new ConnectionFactory();
      factory.setUri(System.getenv("AMQPS_URL"));
      factory.useSslProtocol(trusting("other-ca.pem"));
      try {
        stage.connect(factory);
        throw new AssertionError("it was trusted");
      } catch (SSLHandshakeException expected) {
        check(expected.getMessage() != null, "a reason");
      }
    });
  }

  static SSLContext trusting(String authority) throws Exception {
    KeyStore store = KeyStore.getInstance(KeyStore.getDefaultType());
    store.load(null, null);
    Path file = Path.of(System.getenv("CERTIFICATES"), authority);
    try (InputStream in = Files.newInputStream(file)) {
      store.setCertificateEntry("ca",
          CertificateFactory.getInstance("X.509").generateCertificate(in));
    }
    TrustManagerFactory trust =
        TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
    trust.init(store);
    SSLContext context = SSLContext.getInstance("TLS");
    context.init(null, trust.getTrustManagers(), null);
    return context;
  }

  public static void main(String[] chosen) throws Exception {
    Report.runAll(ALL.keySet(), List.of(chosen), name -> {
      try (Stage stage = new Stage()) {
        ALL.get(name).run(stage);
      }
    });
  }
}
