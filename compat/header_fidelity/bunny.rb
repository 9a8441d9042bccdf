# What Bunny writes into headers.

require "bunny"

headers = {
  "boolean" => true, "small" => 7, "negative" => -70_000, "long" => 2**40, "lowest" => -(2**63),
  "double" => 0.1, "text" => "grüße", "nothing" => nil, "time" => Time.at(1_700_000_000),
  "list" => [1, "two", [3, 2**40], { "k" => -1 }], "table" => { "z" => { "deep" => -1 }, "a" => 1 }
}
connection = Bunny.new(ENV.fetch("AMQP_URL"), log_level: :error).start
channel = connection.create_channel

def take(channel, queue)
  500.times do
    found, = channel.basic_get(queue, manual_ack: true)
    return found.delivery_tag if found

    sleep 0.02
  end
  raise "nothing came to #{queue}"
end

channel.default_exchange.publish("x", routing_key: "fidelity", headers: headers, priority: 3)
channel.reject(take(channel, "fidelity"), false)
channel.ack(take(channel, "fidelity.dead"))
connection.close
