<?php
// php-amqplib, used as its documentation shows.
//
// AMQP_URL says where the broker is (AMQPS_URL and CERTIFICATES for TLS); arguments name scenarios,
// none means all. It prints a line of JSON for each: name, outcome, detail, seconds.

declare(strict_types=1);

require 'PhpAmqpLib/autoload.php';

use PhpAmqpLib\Channel\AMQPChannel;
use PhpAmqpLib\Connection\AbstractConnection;
use PhpAmqpLib\Connection\AMQPSSLConnection;
use PhpAmqpLib\Connection\AMQPStreamConnection;
use PhpAmqpLib\Exception\AMQPConnectionClosedException;
use PhpAmqpLib\Exception\AMQPExceptionInterface;
use PhpAmqpLib\Exception\AMQPIOException;
use PhpAmqpLib\Exception\AMQPProtocolChannelException;
use PhpAmqpLib\Exception\AMQPTimeoutException;
use PhpAmqpLib\Message\AMQPMessage;
use PhpAmqpLib\Wire\AMQPTable;

const PATIENCE_S = 60;
const HEARTBEAT_S = 4; // the broker gives a client up after two of them
$all = [];

/** What one scenario has opened; closed at its end. */
final class Stage
{
    /** @var AbstractConnection[] */
    private array $opened = [];

    /** @param array<string, mixed> $change */
    public function connect(array $change = []): AbstractConnection
    {
        $at = array_merge(parse_url((string) getenv('AMQP_URL')), $change);
        $connection = new AMQPStreamConnection(
            $at['host'], $at['port'], $at['user'], $at['pass'], $at['vhost'] ?? '/',
            false, 'AMQPLAIN', null, 'en_US', PATIENCE_S, PATIENCE_S, null, false, $at['heartbeat'] ?? 0
        );
        return $this->opened[] = $connection;
    }

    public function connectWithTls(string $authority): AbstractConnection
    {
        $at = parse_url((string) getenv('AMQPS_URL'));
        $options = ['cafile' => getenv('CERTIFICATES') . "/$authority", 'verify_peer' => true];
        $connection = new AMQPSSLConnection(
            $at['host'], $at['port'], $at['user'], $at['pass'], '/', $options,
            ['connection_timeout' => PATIENCE_S, 'read_write_timeout' => PATIENCE_S]
        );
        return $this->opened[] = $connection;
    }

    public function channel(): AMQPChannel
    {
        return $this->connect()->channel();
    }

    public function close(): void
    {
        foreach (array_reverse($this->opened) as $connection) {
            try {
                $connection->close();
            } catch (Throwable) {
                // It was closed by the scenario, or by the broker.
            }
        }
    }
}

function same(mixed $expected, mixed $found): void
{
    if ($expected !== $found) {
        throw new RuntimeException('expected ' . show($expected) . ', found ' . show($found));
    }
}

function show(mixed $value): string
{
    return substr(var_export($value, true), 0, 2000);
}

function check(bool $holds, string $what): void
{
    if (!$holds) {
        throw new RuntimeException($what);
    }
}

function queue(AMQPChannel $channel, array $arguments = [], bool $autoDelete = false): string
{
    $table = new AMQPTable($arguments);
    return $channel->queue_declare('', false, false, true, $autoDelete, false, $table)[0];
}

function count_of(AMQPChannel $channel, string $queue): int
{
    return $channel->queue_declare($queue, true)[1];
}

function until(callable $done, string $what): void
{
    $end = microtime(true) + PATIENCE_S;
    while (!$done()) {
        check(microtime(true) < $end, "waited in vain for $what");
        usleep(20_000);
    }
}

/** Wait on the channel until so many have come. */
function take(AMQPChannel $channel, array &$box, int $count): void
{
    $end = microtime(true) + PATIENCE_S;
    while (count($box) < $count) {
        check(microtime(true) < $end, count($box) . " of $count came");
        $channel->wait(null, false, PATIENCE_S);
    }
}

/** Nothing comes on the channel for a while. */
function quiet(AMQPChannel $channel): void
{
    try {
        $channel->wait(null, false, 0.2);
    } catch (AMQPTimeoutException) {
        return;
    }
    throw new RuntimeException('something came');
}

/** @return array{int, string} reply code and text of what the broker refuses */
function refused(callable $provoke): array
{
    try {
        $provoke();
    } catch (AMQPProtocolChannelException | AMQPConnectionClosedException $error) {
        return [$error->getCode(), $error->getMessage()];
    }
    throw new RuntimeException('it was not refused');
}

$all['publish_and_get'] = function (Stage $stage): void {
    $channel = $stage->channel();
    $queue = queue($channel);
    same(null, $channel->basic_get($queue));
    $channel->basic_publish(new AMQPMessage('1', ['delivery_mode' => 2, 'content_type' => 'text/plain']), '', $queue);
    $channel->basic_publish(new AMQPMessage('2'), '', $queue);
    until(fn () => count_of($channel, $queue) === 2, 'both');
    $first = $channel->basic_get($queue);
    same(['1', 'text/plain', 1, false, $queue], [$first->body, $first->get('content_type'),
        $first->getMessageCount(), $first->isRedelivered(), $first->getRoutingKey()]);
    $first->ack();
    same('2', $channel->basic_get($queue, true)->body);
};

$all['consume_and_acknowledge'] = function (Stage $stage): void {
    $channel = $stage->channel();
    $queue = queue($channel);
    foreach (range(0, 99) as $n) {
        $channel->batch_basic_publish(new AMQPMessage((string) $n), '', $queue);
    }
    $channel->publish_batch();
    $reader = $channel->getConnection()->channel();
    $box = [];
    $reader->basic_consume($queue, 'mine', false, false, false, false, function ($m) use (&$box): void {
        $box[] = $m;
    });
    take($reader, $box, 100);
    same(array_map('strval', range(0, 99)), array_map(fn ($m) => $m->body, $box));
    same(range(1, 100), array_map(fn ($m) => $m->getDeliveryTag(), $box));
    $box[49]->ack(true);
    $reader->close();
    same(50, count_of($channel, $queue));
    $next = $channel->basic_get($queue, true);
    same(['50', true], [$next->body, $next->isRedelivered()]);
};

$all['confirms'] = function (Stage $stage): void {
    $channel = $stage->channel();
    $queue = queue($channel);
    $acked = [];
    $channel->set_ack_handler(function (AMQPMessage $m) use (&$acked): void {
        $acked[] = $m->body;
    });
    $channel->confirm_select();
    foreach (range(1, 300) as $n) {
        $channel->basic_publish(new AMQPMessage("$n", ['delivery_mode' => 2]), '', $queue);
    }
    $channel->wait_for_pending_acks(PATIENCE_S);
    sort($acked, SORT_NUMERIC);
    same(array_map('strval', range(1, 300)), $acked);
};

$all['a_full_queue_nacks'] = function (Stage $stage): void {
    $channel = $stage->channel();
    $queue = queue($channel, ['x-max-length' => 1, 'x-overflow' => 'reject-publish']);
    $said = [];
    $channel->set_ack_handler(function ($m) use (&$said): void {
        $said[] = "ack $m->body";
    });
    $channel->set_nack_handler(function ($m) use (&$said): void {
        $said[] = "nack $m->body";
    });
    $channel->confirm_select();
    foreach (['1', '2'] as $body) {
        $channel->basic_publish(new AMQPMessage($body), '', $queue);
        $channel->wait_for_pending_acks(PATIENCE_S);
    }
    same(['ack 1', 'nack 2'], $said);
};

$all['unroutable_messages_come_back'] = function (Stage $stage): void {
    $channel = $stage->channel();
    $said = [];
    $channel->set_return_listener(function ($code, $text, $exchange, $key, $m) use (&$said): void {
        $said[] = [$code, $text, $exchange, $key, $m->body, $m->get('message_id')];
    });
    $channel->set_ack_handler(function () use (&$said): void {
        $said[] = 'ack';
    });
    $channel->confirm_select();
    $channel->basic_publish(new AMQPMessage('lost', ['message_id' => 'm']), 'amq.direct', 'nowhere', true);
    $channel->wait_for_pending_acks_returns(PATIENCE_S);
    same([[312, 'NO_ROUTE', 'amq.direct', 'nowhere', 'lost', 'm'], 'ack'], $said);
};

$all['nack_and_reject'] = function (Stage $stage): void {
    $channel = $stage->channel();
    $queue = queue($channel);
    foreach (['1', '2', '3', '4'] as $body) {
        $channel->basic_publish(new AMQPMessage($body), '', $queue);
    }
    until(fn () => count_of($channel, $queue) === 4, 'all');
    $got = array_map(fn () => $channel->basic_get($queue), range(1, 4));
    $got[3]->reject(false);
    $got[1]->ack();
    $got[2]->nack(true, true);
    foreach (['1', '3'] as $body) {
        $again = $channel->basic_get($queue, true);
        same([$body, true], [$again->body, $again->isRedelivered()]);
    }
    same(null, $channel->basic_get($queue));
};

$all['prefetch'] = function (Stage $stage): void {
    $channel = $stage->channel();
    $queue = queue($channel);
    foreach (range(1, 10) as $n) {
        $channel->basic_publish(new AMQPMessage("$n"), '', $queue);
    }
    $channel->basic_qos(0, 3, false);
    $box = [];
    $channel->basic_consume($queue, '', false, false, false, false, function ($m) use (&$box): void {
        $box[] = $m;
    });
    take($channel, $box, 3);
    quiet($channel);
    $box[2]->ack(true);
    take($channel, $box, 6);
    quiet($channel);
};

$all['a_deleted_queue_cancels_its_consumer'] = function (Stage $stage): void {
    $channel = $stage->channel();
    $queue = queue($channel);
    $channel->basic_consume($queue, 'tag', false, true, false, false, fn () => null);
    $channel->getConnection()->channel()->queue_delete($queue);
    $said = '';
    try {
        $channel->wait(null, false, PATIENCE_S);
    } catch (PhpAmqpLib\Exception\AMQPBasicCancelException $cancelled) {
        $said = $cancelled->consumerTag;
    }
    same('tag', $said);
};

$all['transactions'] = function (Stage $stage): void {
    $channel = $stage->channel();
    $queue = queue($channel);
    $channel->tx_select();
    $channel->basic_publish(new AMQPMessage('gone'), '', $queue);
    $channel->tx_rollback();
    $channel->basic_publish(new AMQPMessage('kept'), '', $queue);
    same(0, count_of($channel, $queue));
    $channel->tx_commit();
    same('kept', $channel->basic_get($queue, true)->body);
};

$all['rpc_over_direct_reply_to'] = function (Stage $stage): void {
    $serving = $stage->channel();
    $queue = queue($serving);
    $calling = $stage->channel();
    $box = [];
    $calling->basic_consume('amq.rabbitmq.reply-to', '', false, true, false, false, function ($m) use (&$box): void {
        $box[] = [$m->get('correlation_id'), $m->body];
    });
    $requests = [];
    $serving->basic_consume($queue, '', false, true, false, false, function ($m) use (&$requests, $serving): void {
        $requests[] = $m;
        $reply = new AMQPMessage(strtoupper($m->body), ['correlation_id' => $m->get('correlation_id')]);
        $serving->basic_publish($reply, '', $m->get('reply_to'));
    });
    foreach (range(1, 10) as $n) {
        $request = ['reply_to' => 'amq.rabbitmq.reply-to', 'correlation_id' => "$n"];
        $calling->basic_publish(new AMQPMessage("call $n", $request), '', $queue);
    }
    take($serving, $requests, 10);
    take($calling, $box, 10);
    same(array_map(fn ($n) => ["$n", "CALL $n"], range(1, 10)), $box);
};

$all['exchanges_and_bindings_between_them'] = function (Stage $stage): void {
    $channel = $stage->channel();
    $suffix = bin2hex(random_bytes(8));
    foreach (['fanout', 'topic', 'headers'] as $type) {
        $channel->exchange_declare("$type-$suffix", $type, false, false, true);
    }
    [$one, $two] = [queue($channel), queue($channel)];
    $channel->queue_bind($one, "fanout-$suffix");
    $channel->exchange_bind("fanout-$suffix", "topic-$suffix", 'a.#');
    $channel->queue_bind($two, "headers-$suffix", '', false, new AMQPTable(['x-match' => 'all', 'k' => 1]));
    $channel->confirm_select();
    $channel->basic_publish(new AMQPMessage('by topic'), "topic-$suffix", 'a.b');
    $channel->basic_publish(new AMQPMessage('nowhere'), "topic-$suffix", 'b');
    $headers = ['application_headers' => new AMQPTable(['k' => 1, 'more' => 2])];
    $channel->basic_publish(new AMQPMessage('by headers', $headers), "headers-$suffix");
    $channel->wait_for_pending_acks(PATIENCE_S);
    same('by topic', $channel->basic_get($one, true)->body);
    same(null, $channel->basic_get($one, true));
    same('by headers', $channel->basic_get($two, true)->body);
};

$all['dead_letters_and_time_to_live'] = function (Stage $stage): void {
    $channel = $stage->channel();
    $dead = queue($channel);
    $queue = queue($channel, ['x-dead-letter-exchange' => '', 'x-dead-letter-routing-key' => $dead]);
    $channel->basic_publish(new AMQPMessage('x', ['expiration' => '50']), '', $queue);
    until(fn () => count_of($channel, $dead) === 1, 'the dead letter');
    $headers = $channel->basic_get($dead, true)->get('application_headers')->getNativeData();
    $death = $headers['x-death'][0];
    same(['expired', 1, $queue, '50'],
        [$death['reason'], $death['count'], $death['queue'], $death['original-expiration']]);
    same($queue, $headers['x-first-death-queue']);
};

$all['header_types'] = function (Stage $stage): void {
    $channel = $stage->channel();
    $queue = queue($channel);
    // A float would go as a string: the client does not guess between its two types.
    $sent = [
        'true' => true, 'false' => false, 'int' => 7, 'negative' => -7, 'long' => 1 << 40,
        'lowest' => PHP_INT_MIN, 'text' => 'grüße', 'empty' => '',
        'nothing' => null, 'list' => [1, 'two', [true, null], ['k' => 15]], 'no items' => [],
        'table' => ['deep' => ['deeper' => 'still']],
    ];
    $channel->basic_publish(new AMQPMessage('', ['application_headers' => new AMQPTable($sent)]), '', $queue);
    until(fn () => count_of($channel, $queue) === 1, 'it');
    same($sent, $channel->basic_get($queue, true)->get('application_headers')->getNativeData());
};

$all['every_property'] = function (Stage $stage): void {
    $channel = $stage->channel();
    $queue = queue($channel);
    $sent = ['content_type' => 'type', 'content_encoding' => 'encoding', 'delivery_mode' => 2,
        'priority' => 5, 'correlation_id' => 'c', 'reply_to' => 'r', 'expiration' => '60000',
        'message_id' => 'm', 'timestamp' => 1_700_000_000, 'type' => 'kind', 'user_id' => 'guest',
        'app_id' => 'app', 'cluster_id' => 'cluster'];
    $channel->basic_publish(new AMQPMessage('', $sent), '', $queue);
    until(fn () => count_of($channel, $queue) === 1, 'it');
    $found = $channel->basic_get($queue, true)->get_properties();
    ksort($sent);
    ksort($found);
    $found['timestamp'] = (int) $found['timestamp'];
    same($sent, $found);
};

$all['bodies_of_all_sizes'] = function (Stage $stage): void {
    $channel = $stage->channel();
    $queue = queue($channel);
    foreach ([0, 1, 131_064, 131_065, 5 << 20] as $size) {
        $body = $size ? random_bytes($size) : '';
        $channel->basic_publish(new AMQPMessage($body), '', $queue);
        until(fn () => count_of($channel, $queue) === 1, 'it');
        check($channel->basic_get($queue, true)->body === $body, "a body of $size");
    }
};

$all['errors_of_channels'] = function (Stage $stage): void {
    $connection = $stage->connect();
    same([404, "NOT_FOUND - no queue 'missing' in vhost '/'"],
        array_map(fn ($x) => is_string($x) ? preg_replace('/\(50.*$/', '', $x) : $x,
            refused(fn () => $connection->channel()->queue_declare('missing', true))));
    same(403, refused(fn () => $connection->channel()->exchange_declare('amq.mine', 'direct'))[0]);
    $name = 'errors-' . bin2hex(random_bytes(8));
    $connection->channel()->queue_declare($name, false, false, true, false);
    same(406, refused(fn () => $connection->channel()->queue_declare($name, false, false, true, true))[0]);
    $other = $stage->connect();
    same(405, refused(fn () => $other->channel()->queue_declare($name, false, false, true, false))[0]);
    $acking = $connection->channel();
    $acking->basic_ack(42);
    [$code, $text] = refused(fn () => $acking->wait(null, false, PATIENCE_S));
    check($code === 406 && str_starts_with($text, 'PRECONDITION_FAILED - unknown delivery tag 42'), $text);
    check($connection->isConnected() && $other->isConnected(), 'the connections go on');
};

$all['errors_of_connections'] = function (Stage $stage): void {
    check(str_starts_with(refused(fn () => $stage->connect(['pass' => 'wrong']))[1],
        'ACCESS_REFUSED - Login was refused using authentication mechanism AMQPLAIN'), '403');
    [$code, $text] = refused(fn () => $stage->connect(['vhost' => 'missing']));
    check($code === 530 && str_starts_with($text, 'NOT_ALLOWED - vhost missing not found'), $text);
    $channel = $stage->channel();
    $queue = queue($channel);
    same(540, refused(function () use ($channel, $queue): void {
        $channel->basic_publish(new AMQPMessage('x'), '', $queue, false, true);
        $channel->wait(null, false, PATIENCE_S);
    })[0]);
};

$all['reconnect_after_a_cut'] = function (Stage $stage): void {
    $connection = $stage->connect();
    $name = 'cut-' . bin2hex(random_bytes(8));
    $channel = $connection->channel();
    $channel->queue_declare($name, false, true, false, false);
    $channel->basic_publish(new AMQPMessage('x', ['delivery_mode' => 2]), '', $name);
    until(fn () => count_of($channel, $name) === 1, 'it');
    $channel->basic_get($name);
    stream_socket_shutdown($connection->getIO()->getSocket(), STREAM_SHUT_RDWR);
    $lost = false;
    try {
        $channel->wait(null, false, PATIENCE_S);
    } catch (AMQPConnectionClosedException | AMQPIOException) {
        $lost = true;
    }
    check($lost, 'the cut was seen');
    $connection->reconnect();
    $channel = $connection->channel();
    until(fn () => count_of($channel, $name) === 1, 'what was not acknowledged');
    $again = $channel->basic_get($name, true);
    same(['x', true], [$again->body, $again->isRedelivered()]);
    $channel->queue_delete($name);
};

$all['heartbeats_keep_a_quiet_connection'] = function (Stage $stage): void {
    $connection = $stage->connect(['heartbeat' => HEARTBEAT_S]);
    foreach (range(1, 10) as $_) {
        usleep(320_000 * HEARTBEAT_S);
        $connection->checkHeartBeat();
    }
    queue($connection->channel());
};

$all['tls'] = function (Stage $stage): void {
    $channel = $stage->connectWithTls('ca.pem')->channel();
    $queue = queue($channel);
    $body = random_bytes(1 << 20);
    $channel->basic_publish(new AMQPMessage($body), '', $queue);
    until(fn () => count_of($channel, $queue) === 1, 'it');
    check($channel->basic_get($queue, true)->body === $body, 'the body');
};

$all['tls_with_an_authority_that_is_not_trusted'] = function (Stage $stage): void {
    $refused = false;
    try {
        @$stage->connectWithTls('other-ca.pem');
    } catch (AMQPExceptionInterface) {
        $refused = true;
    }
    check($refused, 'it was trusted');
};

$chosen = array_slice($argv, 1);
foreach ($all as $name => $scenario) {
    if ($chosen && !in_array($name, $chosen, true)) {
        continue;
    }
    $stage = new Stage();
    $begun = microtime(true);
    $said = ['name' => $name, 'outcome' => 'pass', 'detail' => ''];
    try {
        $scenario($stage);
    } catch (Throwable $error) {
        $said = ['name' => $name, 'outcome' => 'fail', 'detail' => (string) $error];
    }
    $stage->close();
    $said['seconds'] = microtime(true) - $begun;
    echo json_encode($said, JSON_THROW_ON_ERROR | JSON_INVALID_UTF8_SUBSTITUTE), "\n";
}
