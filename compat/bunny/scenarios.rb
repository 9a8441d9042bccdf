# Bunny, used as its guides show.
#
# AMQP_URL says where the broker is (AMQPS_URL and CERTIFICATES for TLS); arguments name scenarios,
# none means all. It prints a line of JSON for each: name, outcome, detail, seconds.

require "bunny"
require "json"
require "securerandom"
require "socket"
require "timeout"

URL = ENV.fetch("AMQP_URL")
PATIENCE = 60
SCENARIO_SECONDS = 180
HEARTBEAT = 4 # the broker gives a client up after two of them
ALL = {}

# What one scenario has opened; closed at its end.
class Stage
  def initialize
    @opened = []
  end

  def later(&block)
    @opened << block
  end

  def connect(url = URL, **options)
    given = { recover_from_connection_close: false, automatically_recover: false, log_level: :fatal,
              continuation_timeout: PATIENCE * 1000 }
    connection = Bunny.new(url, given.merge(options))
    connection.start
    later { connection.close if connection.open? }
    connection
  end

  def channel(**options)
    connect(**options).create_channel
  end

  def close
    @opened.reverse.each do |block|
      block.call
    rescue StandardError
      nil # it was closed by the scenario, or by the broker
    end
  end
end

# A TCP proxy in front of the broker whose connections can be cut.
class Proxy
  attr_reader :port, :accepted

  def initialize(host, port)
    @server = TCPServer.new("127.0.0.1", 0)
    @port = @server.addr[1]
    @sockets = []
    @accepted = 0
    @thread = Thread.new do
      loop do
        near = @server.accept
        far = TCPSocket.new(host, port)
        @accepted += 1
        @sockets.push(near, far)
        pump(near, far)
        pump(far, near)
      end
    end
    @thread.report_on_exception = false
  end

  def pump(from, to)
    Thread.new do
      IO.copy_stream(from, to)
    rescue IOError, SystemCallError
      nil
    ensure
      [from, to].each { |socket| socket.close unless socket.closed? }
    end
  end

  def cut
    @sockets.each do |socket|
      socket.shutdown
    rescue IOError, SystemCallError
      nil
    end
    @sockets.clear
  end

  def close
    @thread.kill
    @server.close
    cut
  end
end

def scenario(name, &block)
  ALL[name.to_s] = block
end

def same(expected, found)
  raise "expected #{expected.inspect}, found #{found.inspect}" unless expected == found
end

def check(holds, what)
  raise what unless holds
end

def till(what)
  deadline = Process.clock_gettime(Process::CLOCK_MONOTONIC) + PATIENCE
  until yield
    check(Process.clock_gettime(Process::CLOCK_MONOTONIC) < deadline, "waited in vain for #{what}")
    sleep 0.02
  end
end

def take(box, count = 1)
  Timeout.timeout(PATIENCE) { Array.new(count) { box.pop } }
end

def refused(kind)
  yield
  raise "it was not refused"
rescue kind => e
  e.message
end

scenario :publish_and_get do |stage|
  channel = stage.channel
  queue = channel.queue("", exclusive: true)
  same [nil, nil, nil], queue.pop
  queue.publish("1", persistent: true, content_type: "text/plain")
  queue.publish("2")
  till("both") { queue.message_count == 2 }
  delivery, properties, body = queue.pop(manual_ack: true)
  same ["1", "text/plain", false], [body, properties.content_type, delivery.redelivered?]
  channel.ack(delivery.delivery_tag)
  same "2", queue.pop.last
end

scenario :consume_and_acknowledge do |stage|
  channel = stage.channel
  queue = channel.queue("", exclusive: true)
  100.times { |n| queue.publish(n.to_s) }
  box = Queue.new
  reader = channel.connection.create_channel
  reader.queue(queue.name, passive: true).subscribe(manual_ack: true) do |delivery, _, body|
    box << [delivery.delivery_tag, body]
  end
  got = take(box, 100)
  same (0...100).map(&:to_s), got.map(&:last)
  reader.ack(got[49].first, true)
  reader.close
  same 50, queue.message_count
  delivery, _, body = queue.pop
  same ["50", true], [body, delivery.redelivered?]
end

scenario :confirms do |stage|
  channel = stage.channel
  queue = channel.queue("", exclusive: true)
  channel.confirm_select
  500.times { queue.publish("x", persistent: true) }
  check channel.wait_for_confirms, "confirmed"
  same 500, queue.message_count
  same [], channel.nacked_set.to_a
end

scenario :a_full_queue_nacks do |stage|
  channel = stage.channel
  queue = channel.queue("", exclusive: true,
                            arguments: { "x-max-length" => 1, "x-overflow" => "reject-publish" })
  channel.confirm_select
  queue.publish("x")
  check channel.wait_for_confirms, "confirmed"
  queue.publish("one too many")
  check !channel.wait_for_confirms, "nacked"
  same [2], channel.nacked_set.to_a
end

scenario :unroutable_messages_come_back do |stage|
  channel = stage.channel
  box = Queue.new
  exchange = channel.direct("amq.direct")
  exchange.on_return { |info, properties, body| box << [info.reply_code, info.reply_text, info.routing_key, properties.message_id, body] }
  exchange.publish("lost", routing_key: "nowhere", mandatory: true, message_id: "m")
  same [[312, "NO_ROUTE", "nowhere", "m", "lost"]], take(box)
end

scenario :nack_and_reject do |stage|
  channel = stage.channel
  queue = channel.queue("", exclusive: true)
  %w[1 2 3 4].each { |body| queue.publish(body) }
  till("all") { queue.message_count == 4 }
  tags = Array.new(4) { queue.pop(manual_ack: true).first.delivery_tag }
  channel.reject(tags[3], false)
  channel.ack(tags[1])
  channel.nack(tags[2], true, true)
  got = Array.new(2) { queue.pop }
  same [["1", true], ["3", true]], got.map { |delivery, _, body| [body, delivery.redelivered?] }
  same nil, queue.pop.last
end

scenario :prefetch do |stage|
  channel = stage.channel
  queue = channel.queue("", exclusive: true)
  10.times { |n| queue.publish(n.to_s) }
  channel.prefetch(3)
  box = Queue.new
  queue.subscribe(manual_ack: true) { |delivery, _, _| box << delivery.delivery_tag }
  tags = take(box, 3)
  sleep 0.2
  check box.empty?, "no more than three"
  channel.ack(tags.last, true)
  take(box, 3)
end

scenario :a_cancelled_consumer_and_a_deleted_queue do |stage|
  channel = stage.channel
  queue = channel.queue("", exclusive: true)
  box = Queue.new
  consumer = Bunny::Consumer.new(channel, queue)
  consumer.on_cancellation { |cancel| box << cancel.consumer_tag }
  queue.subscribe_with(consumer)
  same 1, queue.consumer_count
  channel.connection.create_channel.queue_delete(queue.name)
  same [consumer.consumer_tag], take(box)
end

scenario :transactions do |stage|
  channel = stage.channel
  queue = channel.queue("", exclusive: true)
  channel.tx_select
  queue.publish("gone")
  channel.tx_rollback
  queue.publish("kept")
  same 0, queue.message_count
  channel.tx_commit
  same "kept", queue.pop.last
end

scenario :rpc_over_direct_reply_to do |stage|
  serving = stage.channel
  queue = serving.queue("", exclusive: true)
  queue.subscribe do |_, properties, body|
    serving.default_exchange.publish(body.upcase, routing_key: properties.reply_to,
                                                  correlation_id: properties.correlation_id)
  end
  calling = stage.channel
  box = Queue.new
  calling.queue("amq.rabbitmq.reply-to", no_declare: true).subscribe { |_, properties, body| box << [properties.correlation_id, body] }
  20.times do |n|
    calling.default_exchange.publish("call #{n}", routing_key: queue.name, correlation_id: n.to_s,
                                                  reply_to: "amq.rabbitmq.reply-to")
  end
  same Array.new(20) { |n| [n.to_s, "CALL #{n}"] }, take(box, 20)
end

scenario :exchanges_and_bindings_between_them do |stage|
  channel = stage.channel
  suffix = SecureRandom.uuid
  fan = channel.fanout("fan-#{suffix}", auto_delete: true)
  topic = channel.topic("topic-#{suffix}", auto_delete: true)
  headers = channel.headers("headers-#{suffix}", auto_delete: true)
  one = channel.queue("", exclusive: true).bind(fan)
  two = channel.queue("", exclusive: true)
  fan.bind(topic, routing_key: "a.#")
  two.bind(headers, arguments: { "x-match" => "all", "k" => 1 })
  channel.confirm_select
  topic.publish("by topic", routing_key: "a.b")
  topic.publish("nowhere", routing_key: "b")
  headers.publish("by headers", headers: { "k" => 1, "more" => 2 })
  channel.wait_for_confirms
  same ["by topic", nil], [one.pop.last, one.pop.last]
  same "by headers", two.pop.last
end

scenario :dead_letters_and_time_to_live do |stage|
  channel = stage.channel
  dead = channel.queue("", exclusive: true)
  queue = channel.queue("", exclusive: true, arguments: { "x-dead-letter-exchange" => "",
                                                          "x-dead-letter-routing-key" => dead.name })
  queue.publish("x", expiration: "50")
  till("the dead letter") { dead.message_count == 1 }
  headers = dead.pop[1].headers
  death = headers["x-death"].first
  same ["expired", 1, queue.name, "50"], death.values_at("reason", "count", "queue", "original-expiration")
  same queue.name, headers["x-first-death-queue"]
end

scenario :header_types do |stage|
  channel = stage.channel
  queue = channel.queue("", exclusive: true)
  headers = {
    "true" => true, "false" => false, "int" => 7, "negative" => -7, "long" => 2**40,
    "lowest" => -(2**63), "double" => 0.1, "text" => "grüße".b, "empty" => "",
    "nothing" => nil, "list" => [1, "two", [3], { "k" => 1.5 }], "no items" => [],
    "table" => { "deep" => { "deeper" => "still" } }, "no fields" => {},
    "time" => Time.at(1_700_000_000)
  }
  queue.publish("", headers: headers)
  till("it") { queue.message_count == 1 }
  same headers, queue.pop[1].headers
end

scenario :every_property do |stage|
  channel = stage.channel
  queue = channel.queue("", exclusive: true)
  sent = { content_type: "type", content_encoding: "encoding", headers: {}, delivery_mode: 2,
           priority: 5, correlation_id: "c", reply_to: "r", expiration: "60000", message_id: "m",
           timestamp: 1_700_000_000, type: "kind", user_id: "guest", app_id: "app" }
  given = sent.reject { |name, _| name == :delivery_mode }
  queue.publish("", **given, persistent: true)
  till("it") { queue.message_count == 1 }
  found = queue.pop[1].to_hash
  same sent, found.merge(timestamp: found[:timestamp].to_i)
end

scenario :bodies_of_all_sizes do |stage|
  channel = stage.channel
  queue = channel.queue("", exclusive: true)
  [0, 1, 131_064, 131_065, 10 << 20].each do |size|
    body = Random.new(size).bytes(size)
    queue.publish(body)
    till("it") { queue.message_count == 1 }
    same body, queue.pop.last
  end
end

scenario :errors_of_channels do |stage|
  connection = stage.connect
  same "NOT_FOUND - no queue 'missing' in vhost '/'",
       refused(Bunny::NotFound) { connection.create_channel.queue("missing", passive: true) }
  same "ACCESS_REFUSED - exchange name 'amq.mine' contains reserved prefix 'amq.*'",
       refused(Bunny::AccessRefused) { connection.create_channel.direct("amq.mine") }
  name = "errors-#{SecureRandom.uuid}"
  connection.create_channel.queue(name, exclusive: true)
  other = stage.connect
  check refused(Bunny::ResourceLocked) { other.create_channel.queue(name, exclusive: true) }
    .start_with?("RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '#{name}'"), "405"
  check refused(Bunny::PreconditionFailed) { connection.create_channel.queue(name, exclusive: true, auto_delete: true) }
    .start_with?("PRECONDITION_FAILED - inequivalent arg 'auto_delete' for queue '#{name}'"), "406"
  closed = Queue.new
  channel = connection.create_channel
  channel.on_error { |_, close| closed << [close.reply_code, close.reply_text] }
  channel.ack(42)
  same [[406, "PRECONDITION_FAILED - unknown delivery tag 42"]], take(closed)
  check connection.open? && other.open?, "the connections go on"
end

scenario :logins_that_are_refused do |stage|
  refused(Bunny::AuthenticationFailureError) { stage.connect(URL.sub("guest:guest", "guest:wrong")) }
  check refused(Bunny::NotAllowedError) { stage.connect("#{URL}/missing") }.include?("vhost missing not found"), "530"
end

scenario :recovery_after_a_cut do |stage|
  address = URI(URL)
  proxy = Proxy.new(address.host, address.port)
  stage.later { proxy.close }
  through = URL.sub(":#{address.port}", ":#{proxy.port}")
  connection = stage.connect(through, automatically_recover: true, network_recovery_interval: 0.2,
                                      recover_from_connection_close: true)
  channel = connection.create_channel
  exchange = channel.fanout("amq.fanout") # what is published while nothing is bound is dropped
  queue = channel.queue("", exclusive: true).bind(exchange)
  box = Queue.new
  queue.subscribe { |_, _, body| box << body }
  exchange.publish("before")
  same ["before"], take(box)
  recovered = Queue.new
  connection.after_recovery_completed { recovered << true }
  proxy.cut
  take(recovered)
  exchange.publish("after")
  same ["after"], take(box)
end

scenario :heartbeats_keep_a_quiet_connection do |stage|
  connection = stage.connect(heartbeat: HEARTBEAT)
  sleep 3.2 * HEARTBEAT
  check connection.open?, "it goes on"
  connection.create_channel.queue("", exclusive: true)
end

scenario :tls do |stage|
  folder = ENV.fetch("CERTIFICATES")
  connection = stage.connect(ENV.fetch("AMQPS_URL"), tls_ca_certificates: ["#{folder}/ca.pem"],
                                                     verify_peer: true)
  queue = connection.create_channel.queue("", exclusive: true)
  body = Random.new(3).bytes(1 << 20)
  queue.publish(body)
  till("it") { queue.message_count == 1 }
  same body, queue.pop.last
end

scenario :tls_with_an_authority_that_is_not_trusted do |stage|
  folder = ENV.fetch("CERTIFICATES")
  refused(StandardError) do
    stage.connect(ENV.fetch("AMQPS_URL"), tls_ca_certificates: ["#{folder}/other-ca.pem"],
                                          verify_peer: true)
  end
end

Thread.report_on_exception = false
$stdout.sync = true
ALL.each do |name, block|
  next unless ARGV.empty? || ARGV.include?(name)

  stage = Stage.new
  begun = Process.clock_gettime(Process::CLOCK_MONOTONIC)
  said = { name: name, outcome: "pass", detail: "" }
  begin
    Timeout.timeout(SCENARIO_SECONDS) { block.call(stage) }
  rescue StandardError, Timeout::Error => e
    said = { name: name, outcome: "fail", detail: e.full_message(highlight: false) }
  end
  begin
    Timeout.timeout(PATIENCE) { stage.close }
  rescue Timeout::Error
    nil
  end
  puts JSON.generate(said.merge(seconds: Process.clock_gettime(Process::CLOCK_MONOTONIC) - begun))
end
