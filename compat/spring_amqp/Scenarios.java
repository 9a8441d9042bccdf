// Spring AMQP, used as its reference shows: templates, admin, listener containers, retries.
//
// AMQP_URL says where the broker is; arguments name scenarios, none means all. It prints a line of
// JSON for each: name, outcome, detail, seconds.

import com.rabbitmq.client.AMQP;
import com.rabbitmq.client.Channel;
import com.rabbitmq.client.ConnectionFactory;
import com.rabbitmq.client.ShutdownSignalException;
import java.io.InputStream;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.util.*;
import java.util.concurrent.*;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicReference;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLHandshakeException;
import javax.net.ssl.TrustManagerFactory;
import org.springframework.amqp.AmqpException;
import org.springframework.amqp.AmqpIOException;
import org.springframework.amqp.AmqpRejectAndDontRequeueException;
import org.springframework.amqp.core.*;
import org.springframework.amqp.core.Queue;
import org.springframework.amqp.rabbit.AsyncRabbitTemplate;
import org.springframework.amqp.rabbit.connection.CachingConnectionFactory;
import org.springframework.amqp.rabbit.connection.CachingConnectionFactory.ConfirmType;
import org.springframework.amqp.rabbit.connection.CorrelationData;
import org.springframework.amqp.rabbit.core.RabbitAdmin;
import org.springframework.amqp.rabbit.core.RabbitTemplate;
import org.springframework.amqp.rabbit.listener.*;
import org.springframework.amqp.rabbit.listener.adapter.MessageListenerAdapter;
import org.springframework.amqp.rabbit.listener.api.ChannelAwareMessageListener;
import org.springframework.amqp.rabbit.transaction.RabbitTransactionManager;
import org.springframework.transaction.support.TransactionTemplate;

public class Scenarios {
  interface Scenario {
    void run(Stage stage) throws Exception;
  }

  static final long PATIENCE_MS = 60_000;
  static final Map<String, Scenario> ALL = new LinkedHashMap<>();

  /** A connection factory, an admin, and what is to be undone at the end. */
  static class Stage implements AutoCloseable {
    final CachingConnectionFactory factory;
    final RabbitAdmin admin;
    final List<Runnable> undo = new ArrayList<>();

    Stage() {
      factory = new CachingConnectionFactory(URI.create(System.getenv("AMQP_URL")));
      factory.setPublisherConfirmType(ConfirmType.CORRELATED);
      factory.setPublisherReturns(true);
      undo.add(factory::destroy);
      admin = new RabbitAdmin(factory);
    }

    RabbitTemplate template() {
      RabbitTemplate template = new RabbitTemplate(factory);
      template.setMandatory(true);
      template.setReplyTimeout(PATIENCE_MS);
      template.setReceiveTimeout(PATIENCE_MS);
      return template;
    }

    /** A queue that is deleted at the end. */
    Queue queue(Map<String, Object> arguments) {
      Queue queue = new Queue("spring-" + UUID.randomUUID(), true, false, false, arguments);
      admin.declareQueue(queue);
      undo.add(() -> admin.deleteQueue(queue.getName()));
      return queue;
    }

    Queue queue() {
      return queue(Map.of());
    }

    <T extends AbstractMessageListenerContainer> T listen(
        T container, Queue queue, MessageListener listener) {
      container.setConnectionFactory(factory);
      container.setQueues(queue);
      container.setMessageListener(listener);
      return started(container);
    }

    <T extends AbstractMessageListenerContainer> T started(T container) {
      container.setRecoveryInterval(200);
      container.setShutdownTimeout(PATIENCE_MS);
      container.afterPropertiesSet();
      container.start();
      undo.add(container::stop);
      return container;
    }

    int count(Queue queue) {
      return (int) admin.getQueueProperties(queue.getName()).get(RabbitAdmin.QUEUE_MESSAGE_COUNT);
    }

    @Override
    public void close() {
      Collections.reverse(undo);
      for (Runnable each : undo) {
        try {
          each.run();
        } catch (RuntimeException alreadyGone) {
          // The scenario has ended it.
        }
      }
    }
  }

  static void same(Object expected, Object found) {
    if (!Objects.deepEquals(expected, found)) {
      throw new AssertionError("expected " + expected + ", found " + found);
    }
  }

  static void until(Callable<Boolean> done, String what) throws Exception {
    long end = System.currentTimeMillis() + PATIENCE_MS;
    while (!done.call()) {
      if (System.currentTimeMillis() > end) throw new AssertionError("waited in vain for " + what);
      Thread.sleep(20);
    }
  }

  static String text(Message message) {
    return new String(message.getBody(), StandardCharsets.UTF_8);
  }

  static {
    ALL.put("send_and_receive", stage -> {
      Queue queue = stage.queue();
      RabbitTemplate template = stage.template();
      template.convertAndSend(queue.getName(), "grüße");
      same("grüße", template.receiveAndConvert(queue.getName()));
      same(0, stage.count(queue));
    });

    ALL.put("properties_and_headers", stage -> {
      Queue queue = stage.queue();
      RabbitTemplate template = stage.template();
      Map<String, Object> headers = new LinkedHashMap<>();
      headers.put("text", "a");
      headers.put("int", 7);
      headers.put("long", 1L << 40);
      headers.put("double", 0.1);
      headers.put("yes", true);
      headers.put("list", List.of(1, "two"));
      headers.put("table", Map.of("deep", Map.of("deeper", "still")));
      MessageBuilderSupport<Message> builder = MessageBuilder
          .withBody(new byte[] {0, -1}).setContentType("x/y")
          .setCorrelationId("c").setMessageId("m").setPriority(3).setType("t").setAppId("a")
          .setExpiration("60000").setTimestamp(new Date(1_700_000_000_000L));
      headers.forEach(builder::setHeader);
      template.send(queue.getName(), builder.build());
      Message found = template.receive(queue.getName());
      same(headers, found.getMessageProperties().getHeaders());
      MessageProperties got = found.getMessageProperties();
      same(List.of("x/y", "c", "m", 3, "t", "a", "60000"), List.of(got.getContentType(),
          got.getCorrelationId(), got.getMessageId(), got.getPriority(), got.getType(),
          got.getAppId(), got.getExpiration()));
      same(new Date(1_700_000_000_000L), got.getTimestamp());
      same(MessageDeliveryMode.PERSISTENT, got.getReceivedDeliveryMode());
    });

    ALL.put("declarables_are_declared_again_as_they_are", stage -> {
      String suffix = UUID.randomUUID().toString();
      TopicExchange topic = new TopicExchange("topic-" + suffix, false, true);
      FanoutExchange fan = new FanoutExchange("fan-" + suffix, false, true);
      HeadersExchange headers = new HeadersExchange("headers-" + suffix, false, true);
      Queue queue = stage.queue();
      for (int twice = 0; twice < 2; twice++) {
        for (Exchange each : List.of(topic, fan, headers)) stage.admin.declareExchange(each);
        stage.admin.declareBinding(BindingBuilder.bind(fan).to(topic).with("a.#"));
        stage.admin.declareBinding(BindingBuilder.bind(queue).to(fan));
        stage.admin.declareBinding(
            BindingBuilder.bind(queue).to(headers).whereAll(Map.of("k", "v")).match());
      }
      RabbitTemplate template = stage.template();
      template.convertAndSend(topic.getName(), "a.b", "by topic");
      template.convertAndSend(headers.getName(), "", "by headers", message -> {
        message.getMessageProperties().setHeader("k", "v");
        return message;
      });
      same("by topic", template.receiveAndConvert(queue.getName()));
      same("by headers", template.receiveAndConvert(queue.getName()));
    });

    ALL.put("correlated_confirms_and_returns", stage -> {
      Queue queue = stage.queue();
      RabbitTemplate template = stage.template();
      CorrelationData good = new CorrelationData("good"), lost = new CorrelationData("lost");
      template.convertAndSend("", queue.getName(), "x", good);
      same(true, good.getFuture().get(PATIENCE_MS, TimeUnit.MILLISECONDS).isAck());
      template.convertAndSend("amq.direct", "nowhere", "x", lost);
      same(true, lost.getFuture().get(PATIENCE_MS, TimeUnit.MILLISECONDS).isAck());
      ReturnedMessage returned = lost.getReturned();
      same("312 NO_ROUTE nowhere",
          returned.getReplyCode() + " " + returned.getReplyText() + " " + returned.getRoutingKey());
      CorrelationData nowhere = new CorrelationData("no exchange");
      template.convertAndSend("missing-" + UUID.randomUUID(), "", "x", nowhere);
      same(false, nowhere.getFuture().get(PATIENCE_MS, TimeUnit.MILLISECONDS).isAck());
    });

    ALL.put("a_scope_of_operations_waits_for_confirms", stage -> {
      CachingConnectionFactory simple =
          new CachingConnectionFactory(URI.create(System.getenv("AMQP_URL")));
      simple.setPublisherConfirmType(ConfirmType.SIMPLE);
      stage.undo.add(simple::destroy);
      Queue queue = stage.queue();
      new RabbitTemplate(simple).invoke(operations -> {
        for (int n = 0; n < 200; n++) operations.convertAndSend(queue.getName(), n);
        operations.waitForConfirmsOrDie(PATIENCE_MS);
        return null;
      });
      same(200, stage.count(queue));
    });

    for (boolean direct : new boolean[] {false, true}) {
      String kind = direct ? "direct" : "simple";
      ALL.put("a_" + kind + "_container_takes_all", stage -> {
        Queue queue = stage.queue();
        Set<String> seen = ConcurrentHashMap.newKeySet();
        AbstractMessageListenerContainer container;
        if (direct) {
          DirectMessageListenerContainer made = new DirectMessageListenerContainer();
          made.setConsumersPerQueue(3);
          container = made;
        } else {
          SimpleMessageListenerContainer made = new SimpleMessageListenerContainer();
          made.setConcurrentConsumers(3);
          container = made;
        }
        container.setPrefetchCount(20);
        stage.listen(container, queue, (MessageListener) message -> seen.add(text(message)));
        RabbitTemplate template = stage.template();
        for (int n = 0; n < 500; n++) template.convertAndSend(queue.getName(), "" + n);
        until(() -> seen.size() == 500, "all messages");
        container.stop();
        same(0, stage.count(queue));
      });
    }

    ALL.put("a_listener_that_fails_gets_it_again", stage -> {
      Queue queue = stage.queue();
      List<Boolean> redelivered = Collections.synchronizedList(new ArrayList<>());
      stage.listen(new SimpleMessageListenerContainer(), queue, (MessageListener) message -> {
        redelivered.add(message.getMessageProperties().isRedelivered());
        if (redelivered.size() < 3) throw new IllegalStateException("not yet");
      });
      stage.template().convertAndSend(queue.getName(), "x");
      until(() -> redelivered.size() == 3, "three attempts");
      same(List.of(false, true, true), redelivered);
    });

    ALL.put("rejected_for_good_is_a_dead_letter", stage -> {
      Queue dead = stage.queue();
      Queue queue = stage.queue(Map.of("x-dead-letter-exchange", "",
          "x-dead-letter-routing-key", dead.getName()));
      stage.listen(new SimpleMessageListenerContainer(), queue, (MessageListener) message -> {
        throw new AmqpRejectAndDontRequeueException("no");
      });
      stage.template().convertAndSend(queue.getName(), "x");
      Message letter = stage.template().receive(dead.getName());
      Map<String, ?> death = letter.getMessageProperties().getXDeathHeader().get(0);
      same(List.of("rejected", queue.getName(), 1L),
          List.of(death.get("reason"), death.get("queue"), death.get("count")));
    });

    ALL.put("acknowledged_by_hand", stage -> {
      Queue queue = stage.queue();
      List<String> seen = Collections.synchronizedList(new ArrayList<>());
      SimpleMessageListenerContainer container = new SimpleMessageListenerContainer();
      container.setAcknowledgeMode(AcknowledgeMode.MANUAL);
      stage.listen(container, queue, (ChannelAwareMessageListener) (message, channel) -> {
        long tag = message.getMessageProperties().getDeliveryTag();
        seen.add(text(message));
        if (seen.size() == 1) channel.basicNack(tag, false, true);
        else channel.basicAck(tag, false);
      });
      stage.template().convertAndSend(queue.getName(), "x");
      until(() -> seen.size() == 2, "both");
      container.stop();
      same(0, stage.count(queue));
    });

    ALL.put("rpc_with_a_template_and_an_adapter", stage -> {
      Queue queue = stage.queue();
      Object service = new Object() {
        public String handleMessage(String text) {
          return text.toUpperCase(Locale.ROOT);
        }
      };
      stage.listen(new SimpleMessageListenerContainer(), queue, new MessageListenerAdapter(service));
      RabbitTemplate direct = stage.template();
      for (int n = 0; n < 30; n++) {
        same("CALL " + n, direct.convertSendAndReceive("", queue.getName(), "call " + n));
      }
      RabbitTemplate temporary = stage.template();
      temporary.setUseTemporaryReplyQueues(true);
      same("ONCE", temporary.convertSendAndReceive("", queue.getName(), "once"));
      AsyncRabbitTemplate async = new AsyncRabbitTemplate(stage.template());
      async.start();
      stage.undo.add(async::stop);
      CompletableFuture<Object> answer = async.convertSendAndReceive("", queue.getName(), "later");
      same("LATER", answer.get(PATIENCE_MS, TimeUnit.MILLISECONDS));
    });

    ALL.put("a_transaction_that_is_rolled_back", stage -> {
      CachingConnectionFactory plain =
          new CachingConnectionFactory(URI.create(System.getenv("AMQP_URL")));
      stage.undo.add(plain::destroy);
      Queue queue = stage.queue();
      RabbitTemplate template = new RabbitTemplate(plain);
      template.setChannelTransacted(true);
      TransactionTemplate transaction =
          new TransactionTemplate(new RabbitTransactionManager(plain));
      transaction.executeWithoutResult(status -> {
        template.convertAndSend(queue.getName(), "gone");
        status.setRollbackOnly();
      });
      transaction.executeWithoutResult(
          status -> template.convertAndSend(queue.getName(), "kept"));
      same(1, stage.count(queue));
      same("kept", stage.template().receiveAndConvert(queue.getName()));
    });

    ALL.put("a_deleted_queue_is_declared_again_by_its_container", stage -> {
      Queue queue = new AnonymousQueue();
      AtomicInteger seen = new AtomicInteger();
      org.springframework.context.support.GenericApplicationContext context =
          new org.springframework.context.support.GenericApplicationContext();
      context.getBeanFactory().registerSingleton("admin", stage.admin);
      context.getBeanFactory().registerSingleton("queue", queue);
      context.refresh();
      stage.undo.add(context::close);
      stage.admin.setApplicationContext(context);
      stage.admin.initialize();
      SimpleMessageListenerContainer container = new SimpleMessageListenerContainer();
      container.setAmqpAdmin(stage.admin);
      container.setApplicationContext(context);
      container.setFailedDeclarationRetryInterval(200);
      stage.listen(container, queue, (MessageListener) message -> seen.incrementAndGet());
      stage.template().convertAndSend(queue.getName(), "x");
      until(() -> seen.get() == 1, "the first");
      stage.admin.deleteQueue(queue.getName());
      until(() -> {
        if (stage.admin.getQueueProperties(queue.getName()) == null) return false;
        stage.template().convertAndSend(queue.getName(), "x");
        return seen.get() >= 2;
      }, "the container to be back");
    });
  }

  /** A template over TLS that trusts this authority. */
  static RabbitTemplate overTls(Stage stage, String authority) throws Exception {
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
    ConnectionFactory plain = new ConnectionFactory();
    plain.setUri(System.getenv("AMQPS_URL"));
    plain.useSslProtocol(context);
    plain.enableHostnameVerification();
    CachingConnectionFactory factory = new CachingConnectionFactory(plain);
    stage.undo.add(factory::destroy);
    return new RabbitTemplate(factory);
  }

  /** What the broker said when it closed the channel. */
  static String refused(Callable<?> call) throws Exception {
    try {
      call.call();
    } catch (AmqpException refusal) {
      for (Throwable cause = refusal; cause != null; cause = cause.getCause()) {
        if (cause instanceof ShutdownSignalException signal
            && signal.getReason() instanceof AMQP.Channel.Close close) {
          return close.getReplyCode() + " " + close.getReplyText();
        }
      }
      throw refusal;
    }
    throw new AssertionError("it was not refused");
  }

  static {
    ALL.put("bodies_of_all_sizes", stage -> {
      Queue queue = stage.queue();
      RabbitTemplate template = stage.template();
      for (int size : new int[] {0, 1, 131_064, 131_065, 5_000_000}) {
        byte[] body = new byte[size];
        new Random(size).nextBytes(body);
        template.send(queue.getName(), MessageBuilder.withBody(body).build());
        Message found = template.receive(queue.getName());
        if (!Arrays.equals(body, found.getBody())) throw new AssertionError(size + " octets");
      }
    });

    ALL.put("a_container_acknowledges_in_batches", stage -> {
      Queue queue = stage.queue();
      Set<String> seen = ConcurrentHashMap.newKeySet();
      SimpleMessageListenerContainer container = new SimpleMessageListenerContainer();
      container.setBatchSize(10);
      container.setPrefetchCount(20);
      stage.listen(container, queue, (MessageListener) message -> seen.add(text(message)));
      // Full batches: what is in a part of one when the container stops may come again.
      for (int n = 0; n < 200; n++) stage.template().convertAndSend(queue.getName(), "" + n);
      until(() -> seen.size() == 200, "all messages");
      container.stop();
      same(0, stage.count(queue));
    });

    ALL.put("prefetch_bounds_a_container", stage -> {
      Queue queue = stage.queue();
      BlockingQueue<Long> held = new LinkedBlockingQueue<>();
      AtomicReference<Channel> channel = new AtomicReference<>();
      for (int n = 0; n < 10; n++) stage.template().convertAndSend(queue.getName(), "x");
      DirectMessageListenerContainer container = new DirectMessageListenerContainer();
      container.setPrefetchCount(3);
      container.setAcknowledgeMode(AcknowledgeMode.MANUAL);
      stage.listen(container, queue, (ChannelAwareMessageListener) (message, from) -> {
        channel.set(from);
        held.add(message.getMessageProperties().getDeliveryTag());
      });
      until(() -> held.size() == 3, "the window");
      Thread.sleep(200);
      same(3, held.size());
      channel.get().basicAck(3, true);
      until(() -> held.size() == 6, "the next window");
    });

    ALL.put("what_the_broker_refuses", stage -> {
      Queue queue = stage.queue();
      RabbitTemplate template = stage.template();
      String name = queue.getName();
      same("404 NOT_FOUND - no queue '" + name + "-' in vhost '/'",
          refused(() -> template.execute(channel -> channel.queueDeclarePassive(name + "-"))));
      same("406 PRECONDITION_FAILED - inequivalent arg 'durable' for queue '" + name
              + "' in vhost '/': received 'false' but current is 'true'",
          refused(() -> stage.admin.declareQueue(new Queue(name, false))));
      same("403 ACCESS_REFUSED - queue name 'amq.x' contains reserved prefix 'amq.*'",
          refused(() -> template.execute(
              channel -> channel.queueDeclare("amq.x", true, false, false, Map.of()))));
      template.convertAndSend(name, "it goes on");
      same("it goes on", template.receiveAndConvert(name));
    });

    ALL.put("a_container_comes_back_after_cuts", stage -> {
      Queue queue = stage.queue();
      Set<String> seen = ConcurrentHashMap.newKeySet();
      URI broker = URI.create(System.getenv("AMQP_URL"));
      try (Proxy proxy = new Proxy(broker)) {
        CachingConnectionFactory through =
            new CachingConnectionFactory("127.0.0.1", proxy.listener.getLocalPort());
        stage.undo.add(through::destroy);
        SimpleMessageListenerContainer container = new SimpleMessageListenerContainer(through);
        container.setQueues(queue);
        container.setMessageListener(message -> seen.add(text(message)));
        stage.started(container);
        for (int n = 0; n < 3; n++) {
          String body = "message " + n;
          stage.template().convertAndSend(queue.getName(), body);
          until(() -> seen.contains(body), body);
          proxy.cut();
        }
        stage.template().convertAndSend(queue.getName(), "last");
        until(() -> seen.contains("last"), "the message after the last cut");
        container.stop();
      }
    });

    ALL.put("tls", stage -> {
      Queue queue = stage.queue();
      RabbitTemplate template = overTls(stage, "ca.pem");
      template.convertAndSend(queue.getName(), "secret");
      template.setReceiveTimeout(PATIENCE_MS);
      same("secret", template.receiveAndConvert(queue.getName()));
    });

    ALL.put("tls_with_an_authority_that_is_not_trusted", stage -> {
      RabbitTemplate template = overTls(stage, "other-ca.pem");
      try {
        template.convertAndSend("nowhere", "secret");
      } catch (AmqpIOException expected) {
        if (expected.getCause() instanceof SSLHandshakeException) return;
        throw expected;
      }
      throw new AssertionError("it was trusted");
    });
  }

  public static void main(String[] chosen) throws Exception {
    Report.runAll(ALL.keySet(), List.of(chosen), name -> {
      try (Stage stage = new Stage()) {
        ALL.get(name).run(stage);
      }
    });
  }
}
