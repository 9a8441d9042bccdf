// What amqp091-go writes into headers.
package main

import (
	"fmt"
	"os"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

func must[T any](value T, err error) T {
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	return value
}

func main() {
	headers := amqp.Table{
		"boolean": true,
		"byte":    byte(200),
		"int8":    int8(-7),
		"int16":   int16(-300),
		"int32":   int32(-70_000),
		"int64":   int64(1) << 40,
		"int":     7,
		"float32": float32(0.1),
		"float64": 0.1,
		"decimal": amqp.Decimal{Scale: 2, Value: 314},
		"text":    "grüße",
		"bytes":   []byte{0, 255},
		"time":    time.Unix(1_700_000_000, 0),
		"nothing": nil,
		"list":    []interface{}{int32(1), "two", []interface{}{nil, true}, amqp.Table{"k": int64(2)}},
		"table":   amqp.Table{"z": amqp.Table{"deep": int32(-1)}, "a": int32(1)},
	}
	connection := must(amqp.Dial(os.Getenv("AMQP_URL")))
	channel := must(connection.Channel())
	take := func(queue string) amqp.Delivery {
		for attempt := 0; attempt < 500; attempt++ {
			if message, found, err := channel.Get(queue, false); err != nil || found {
				return must(message, err)
			}
			time.Sleep(20 * time.Millisecond)
		}
		return must(amqp.Delivery{}, fmt.Errorf("nothing came to %s", queue))
	}
	message := amqp.Publishing{Headers: headers, Body: []byte("x"), Priority: 3, MessageId: "m"}
	must(0, channel.Publish("", "fidelity", false, false, message))
	must(0, take("fidelity").Reject(false))
	must(0, take("fidelity.dead").Ack(false))
	must(0, connection.Close())
}
