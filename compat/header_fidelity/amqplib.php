<?php
// What php-amqplib writes into headers, every type by its name.

declare(strict_types=1);

require 'PhpAmqpLib/autoload.php';

use PhpAmqpLib\Connection\AMQPStreamConnection;
use PhpAmqpLib\Message\AMQPMessage;
use PhpAmqpLib\Wire\AMQPArray;
use PhpAmqpLib\Wire\AMQPDecimal;
use PhpAmqpLib\Wire\AMQPTable;

$headers = new AMQPTable();
$headers->set('boolean', true);
$headers->set('i8', -7, AMQPTable::T_INT_SHORTSHORT);
$headers->set('u8', 200, AMQPTable::T_INT_SHORTSHORT_U);
$headers->set('i16', -300, AMQPTable::T_INT_SHORT);
$headers->set('u16', 65_000, AMQPTable::T_INT_SHORT_U);
$headers->set('i32', -70_000, AMQPTable::T_INT_LONG);
$headers->set('u32', 4_000_000_000, AMQPTable::T_INT_LONG_U);
$headers->set('i64', 1 << 40, AMQPTable::T_INT_LONGLONG);
$headers->set('decimal', new AMQPDecimal(314, 2));
$headers->set('text', 'grüße');
$headers->set('bytes', "\x00\xff", AMQPTable::T_BYTES);
$headers->set('time', 1_700_000_000, AMQPTable::T_TIMESTAMP);
$headers->set('nothing', null);
$headers->set('list', new AMQPArray([1, 'two', [null, true], ['k' => 1 << 40]]));
$headers->set('table', ['z' => ['deep' => -1], 'a' => 1]);

$at = parse_url((string) getenv('AMQP_URL'));
$connection = new AMQPStreamConnection($at['host'], $at['port'], $at['user'], $at['pass']);
$channel = $connection->channel();

$take = function (string $queue) use ($channel): AMQPMessage {
    for ($attempt = 0; $attempt < 500; $attempt++) {
        $message = $channel->basic_get($queue);
        if ($message) {
            return $message;
        }
        usleep(20_000);
    }
    throw new RuntimeException("nothing came to $queue");
};

$properties = ['application_headers' => $headers, 'priority' => 3, 'message_id' => 'm'];
$channel->basic_publish(new AMQPMessage('x', $properties), '', 'fidelity');
$take('fidelity')->reject(false);
$take('fidelity.dead')->ack();
$connection->close();
