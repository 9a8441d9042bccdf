// What lapin writes into headers.

use lapin::options::*;
use lapin::types::*;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use std::time::Duration;

async fn take(channel: &Channel, queue: &str) -> lapin::message::BasicGetMessage {
    for _ in 0..500 {
        let got = channel.basic_get(queue.into(), BasicGetOptions::default()).await.unwrap();
        if let Some(message) = got {
            return message;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("nothing came to {queue}");
}

#[tokio::main]
async fn main() {
    let url = std::env::var("AMQP_URL").unwrap();
    let connection = Connection::connect(&url, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let mut inner = FieldTable::default();
    inner.insert("deep".into(), AMQPValue::ShortInt(-1));
    let list = vec![AMQPValue::Void, AMQPValue::LongInt(1), AMQPValue::FieldTable(inner.clone())];
    let mut headers = FieldTable::default();
    for (name, value) in [
        ("boolean", AMQPValue::Boolean(true)),
        ("i8", AMQPValue::ShortShortInt(-7)),
        ("u8", AMQPValue::ShortShortUInt(200)),
        ("i16", AMQPValue::ShortInt(-300)),
        ("u16", AMQPValue::ShortUInt(65_000)),
        ("i32", AMQPValue::LongInt(-70_000)),
        ("u32", AMQPValue::LongUInt(4_000_000_000)),
        ("i64", AMQPValue::LongLongInt(1 << 40)),
        ("f32", AMQPValue::Float(0.1)),
        ("f64", AMQPValue::Double(0.1)),
        ("decimal", AMQPValue::DecimalValue(DecimalValue { scale: 2, value: 314 })),
        ("text", AMQPValue::LongString("grüße".into())),
        ("bytes", AMQPValue::ByteArray(vec![0u8, 255].into())),
        ("time", AMQPValue::Timestamp(1_700_000_000)),
        ("nothing", AMQPValue::Void),
        ("list", AMQPValue::FieldArray(list.into())),
        ("table", AMQPValue::FieldTable(inner)),
    ] {
        headers.insert(name.into(), value);
    }
    let properties = BasicProperties::default().with_headers(headers).with_priority(3);
    channel
        .basic_publish("".into(), "fidelity".into(), BasicPublishOptions::default(), b"x", properties)
        .await
        .unwrap();
    let got = take(&channel, "fidelity").await;
    got.reject(BasicRejectOptions { requeue: false }).await.unwrap();
    let dead = take(&channel, "fidelity.dead").await;
    dead.ack(BasicAckOptions::default()).await.unwrap();
    connection.close(200, "done".into()).await.unwrap();
}
