# AnyEvent::RabbitMQ, used as its documentation shows.
#
# AMQP_URL says where the broker is (AMQPS_URL and CERTIFICATES for TLS); arguments name scenarios,
# none means all. It prints a line of JSON for each: name, outcome, detail, seconds.

use strict;
use warnings;
use utf8;

use AnyEvent;
use AnyEvent::RabbitMQ;
use JSON::PP;
use Net::AMQP::Value;
use Scalar::Util qw(blessed);
use Time::HiRes qw(time);

my $PATIENCE = 60;
my @ALL;
$| = 1;

sub scenario { push @ALL, [@_] }

sub address {
    my ($url) = @_;
    my ($user, $pass, $host, $port) = $url =~ m{^amqps?://([^:]+):([^@]+)@([^:/]+):(\d+)};
    return (user => $user, pass => $pass, host => $host, port => $port, vhost => '/');
}

# Wait for a condition variable, but not for ever.
sub within {
    my ($cv, $what) = @_;
    my $timer = AnyEvent->timer(after => $PATIENCE, cb => sub { $cv->croak("waited in vain for $what") });
    return $cv->recv;
}

# Call a method that answers by on_success or on_failure, and wait for the answer.
sub call {
    my ($target, $method, %args) = @_;
    my $cv = AnyEvent->condvar;
    $target->$method(
        on_success => sub { $cv->send(@_) },
        on_failure => sub { $cv->croak('refused: ' . reason(@_)) },
        %args,
    );
    return within($cv, $method);
}

# What the broker said when it closed something.
sub reason {
    my ($said) = @_;
    return $said unless blessed $said && $said->can('method_frame');
    my $frame = $said->method_frame;
    return $frame->can('reply_code') ? $frame->reply_code . ' ' . $frame->reply_text : ref $frame;
}

sub connect_to {
    my (%change) = @_;
    my $client = AnyEvent::RabbitMQ->new->load_xml_spec;
    my $cv = AnyEvent->condvar;
    $client->connect(
        address($ENV{AMQP_URL}), timeout => $PATIENCE, tune => {heartbeat => 0},
        on_success      => sub { $cv->send($client) },
        on_failure      => sub { $cv->croak('refused: ' . reason(@_)) },
        on_read_failure => sub { $cv->croak("read failure: @_") },
        on_close        => sub { $cv->croak('refused: ' . reason(@_)) },
        %change,
    );
    return within($cv, 'the connection');
}

sub open_channel {
    my ($client, %args) = @_;
    return call($client, 'open_channel', on_close => sub { }, %args);
}

sub queue_for {
    my ($channel, %args) = @_;
    return call($channel, 'declare_queue', queue => '', exclusive => 1, auto_delete => 0, %args)
        ->method_frame->queue;
}

# An empty body comes without a frame.
sub body_of { my ($got) = @_; return $got->{body} ? $got->{body}->payload : '' }

# basic.get: the answer, or undef for an empty queue.
sub get {
    my ($channel, $queue, %args) = @_;
    my $got = call($channel, 'get', queue => $queue, no_ack => 1, %args);
    return $got->{empty} ? undef : $got;
}

sub count_of {
    my ($channel, $queue) = @_;
    return call($channel, 'declare_queue', queue => $queue, passive => 1)->method_frame->message_count;
}

sub till {
    my ($what, $done) = @_;
    my $end = time + $PATIENCE;
    until ($done->()) {
        die "waited in vain for $what" if time > $end;
        my $cv = AnyEvent->condvar;
        my $timer = AnyEvent->timer(after => 0.02, cb => sub { $cv->send });
        $cv->recv;
    }
}

sub same {
    my ($expected, $found) = @_;
    my $json = JSON::PP->new->canonical->allow_nonref->allow_blessed;
    my ($want, $got) = map { $json->encode($_) } $expected, $found;
    die "expected $want, found $got" if $want ne $got;
}

sub refused {
    my ($pattern, $provoke) = @_;
    eval { $provoke->(); 1 } and die 'it was not refused';
    die "refused, but: $@" unless $@ =~ $pattern;
}

scenario publish_and_get => sub {
    my $channel = open_channel(connect_to());
    my $queue = queue_for($channel);
    same(undef, get($channel, $queue));
    $channel->publish(routing_key => $queue, body => '1', header => {content_type => 'text/plain'});
    $channel->publish(routing_key => $queue, body => '2');
    till('both', sub { count_of($channel, $queue) == 2 });
    my $first = get($channel, $queue, no_ack => 0);
    same(['1', 'text/plain', 1], [body_of($first), $first->{header}->content_type,
        $first->{ok}->method_frame->message_count]);
    $channel->ack(delivery_tag => $first->{ok}->method_frame->delivery_tag);
    same('2', body_of(get($channel, $queue)));
};

scenario consume_and_acknowledge => sub {
    my $client = connect_to();
    my $channel = open_channel($client);
    my $queue = queue_for($channel);
    $channel->publish(routing_key => $queue, body => "$_") for 0 .. 99;
    my $reader = open_channel($client);
    my @box;
    call($reader, 'consume', queue => $queue, no_ack => 0, on_consume => sub { push @box, $_[0] });
    till('all', sub { @box == 100 });
    same([map {"$_"} 0 .. 99], [map { body_of($_) } @box]);
    same([1 .. 100], [map { 0 + $_->{deliver}->method_frame->delivery_tag } @box]);
    $reader->ack(delivery_tag => 50, multiple => 1);
    call($reader, 'close');
    same(50, 0 + count_of($channel, $queue));
    my $next = get($channel, $queue);
    same(['50', 1], [body_of($next), 0 + $next->{ok}->method_frame->redelivered]);
};

scenario confirms_and_returns => sub {
    my $channel = open_channel(connect_to());
    my $queue = queue_for($channel);
    call($channel, 'confirm');
    my %said;
    for my $n (1 .. 100) {
        $channel->publish(routing_key => $queue, body => "$n", header => {delivery_mode => 2},
            on_ack => sub { $said{ack}++ }, on_nack => sub { $said{nack}++ });
    }
    my @order;
    $channel->publish(exchange => 'amq.direct', routing_key => 'nowhere', body => 'lost', mandatory => 1,
        on_return => sub { push @order, reason($_[0]) },
        on_ack    => sub { push @order, 'ack' });
    till('all', sub { ($said{ack} // 0) == 100 && @order == 2 });
    same(['312 NO_ROUTE', 'ack'], \@order);
    same(undef, $said{nack});
};

scenario a_full_queue_nacks => sub {
    my $channel = open_channel(connect_to());
    my $queue = queue_for($channel,
        arguments => {'x-max-length' => 1, 'x-overflow' => 'reject-publish'});
    call($channel, 'confirm');
    my @said;
    for my $body ('1', '2') {
        $channel->publish(routing_key => $queue, body => $body,
            on_ack => sub { push @said, "ack $body" }, on_nack => sub { push @said, "nack $body" });
        till('an answer', sub { @said == $body });
    }
    same(['ack 1', 'nack 2'], \@said);
};

scenario reject_and_recover => sub {
    my $channel = open_channel(connect_to());
    my $queue = queue_for($channel);
    $channel->publish(routing_key => $queue, body => "$_") for 1 .. 3;
    till('all', sub { count_of($channel, $queue) == 3 });
    my @tags = map { get($channel, $queue, no_ack => 0)->{ok}->method_frame->delivery_tag } 1 .. 3;
    $channel->reject(delivery_tag => $tags[2], requeue => 0);
    $channel->reject(delivery_tag => $tags[0], requeue => 1);
    my $again = get($channel, $queue);
    same(['1', 1], [body_of($again), 0 + $again->{ok}->method_frame->redelivered]);
    call($channel, 'recover', requeue => 1);
    same('2', body_of(get($channel, $queue)));
    same(undef, get($channel, $queue));
};

scenario prefetch => sub {
    my $channel = open_channel(connect_to());
    my $queue = queue_for($channel);
    $channel->publish(routing_key => $queue, body => "$_") for 1 .. 10;
    call($channel, 'qos', prefetch_count => 3);
    my @box;
    call($channel, 'consume', queue => $queue, no_ack => 0, on_consume => sub { push @box, $_[0] });
    till('three', sub { @box == 3 });
    my $pause = time + 0.2;
    till('a moment', sub { time > $pause });
    same(3, scalar @box);
    $channel->ack(delivery_tag => 3, multiple => 1);
    till('three more', sub { @box == 6 });
};

scenario a_cancelled_consumer_and_a_deleted_queue => sub {
    my $client = connect_to();
    my $channel = open_channel($client);
    my $queue = queue_for($channel);
    my $cancelled = 0;
    my $ok = call($channel, 'consume', queue => $queue, on_consume => sub { });
    call($channel, 'cancel', consumer_tag => $ok->method_frame->consumer_tag);
    call($channel, 'consume', queue => $queue, on_consume => sub { }, on_cancel => sub { $cancelled++ });
    call(open_channel($client), 'delete_queue', queue => $queue);
    till('the cancellation', sub { $cancelled == 1 });
};

scenario transactions => sub {
    my $channel = open_channel(connect_to());
    my $queue = queue_for($channel);
    call($channel, 'select_tx');
    $channel->publish(routing_key => $queue, body => 'gone');
    call($channel, 'rollback_tx');
    $channel->publish(routing_key => $queue, body => 'kept');
    same(0, 0 + count_of($channel, $queue));
    call($channel, 'commit_tx');
    same('kept', body_of(get($channel, $queue)));
};

scenario rpc_over_direct_reply_to => sub {
    my $serving = open_channel(connect_to());
    my $queue = queue_for($serving);
    call($serving, 'consume', queue => $queue, on_consume => sub {
        my $header = $_[0]->{header};
        $serving->publish(routing_key => $header->reply_to, body => uc body_of($_[0]),
            header => {correlation_id => $header->correlation_id});
    });
    my $calling = open_channel(connect_to());
    my @box;
    call($calling, 'consume', queue => 'amq.rabbitmq.reply-to', no_ack => 1,
        on_consume => sub { push @box, $_[0]->{header}->correlation_id . ' ' . body_of($_[0]) });
    for my $n (1 .. 10) {
        $calling->publish(routing_key => $queue, body => "call $n",
            header => {reply_to => 'amq.rabbitmq.reply-to', correlation_id => "$n"});
    }
    till('the answers', sub { @box == 10 });
    same([map {"$_ CALL $_"} 1 .. 10], \@box);
};

scenario exchanges_and_bindings_between_them => sub {
    my $channel = open_channel(connect_to());
    my $suffix = $$ . '-' . int(time * 1000);
    call($channel, 'declare_exchange', exchange => "$_-$suffix", type => $_, auto_delete => 1)
        for qw(fanout topic headers);
    my ($one, $two) = map { queue_for($channel) } 1 .. 2;
    call($channel, 'bind_queue', queue => $one, exchange => "fanout-$suffix", routing_key => '');
    call($channel, 'bind_exchange', source => "topic-$suffix", destination => "fanout-$suffix",
        routing_key => 'a.#');
    call($channel, 'bind_queue', queue => $two, exchange => "headers-$suffix", routing_key => '',
        arguments => {'x-match' => 'all', k => 'v'});
    $channel->publish(exchange => "topic-$suffix", routing_key => 'a.b', body => 'by topic');
    $channel->publish(exchange => "topic-$suffix", routing_key => 'b', body => 'nowhere');
    $channel->publish(exchange => "headers-$suffix", routing_key => '', body => 'by headers',
        header => {headers => {k => 'v', more => 1}});
    till('both', sub { count_of($channel, $one) == 1 && count_of($channel, $two) == 1 });
    same(['by topic', 'by headers'], [map { body_of(get($channel, $_)) } $one, $two]);
};

# The client cannot read a dead letter of any broker: x-death counts in an int64, which it lacks.
scenario time_to_live => sub {
    my $channel = open_channel(connect_to());
    my $queue = queue_for($channel);
    $channel->publish(routing_key => $queue, body => 'short', header => {expiration => '50'});
    $channel->publish(routing_key => $queue, body => 'long', header => {expiration => '60000'});
    till('the end of the first', sub { count_of($channel, $queue) == 1 });
    same('long', body_of(get($channel, $queue)));
};

scenario header_types => sub {
    my $channel = open_channel(connect_to());
    my $queue = queue_for($channel);
    my %sent = (
        text => 'plain', empty => '', digits => '17',
        list => [1, 'two', ['three'], {k => -3}], table => {deep => {deeper => 'still'}},
        int => Net::AMQP::Value::Integer->new(70_000),
        time => Net::AMQP::Value::Timestamp->new(1_700_000_000),
    );
    $channel->publish(routing_key => $queue, body => '', header => {headers => {%sent}});
    till('it', sub { count_of($channel, $queue) == 1 });
    my $found = get($channel, $queue)->{header}->headers;
    same([sort keys %sent], [sort keys %$found]);
    for my $name (qw(text empty digits table)) { same($sent{$name}, $found->{$name}) }
    same('[1,"two",["three"],{"k":-3}]', JSON::PP->new->encode(
        [0 + $found->{list}[0], $found->{list}[1], $found->{list}[2], {k => 0 + $found->{list}[3]{k}}]));
    same([70_000, 1_700_000_000], [0 + $found->{int}, 0 + $found->{time}]);
};

scenario bodies_of_all_sizes => sub {
    my $channel = open_channel(connect_to());
    my $queue = queue_for($channel);
    for my $size (0, 1, 131_064, 131_065, 5 << 20) {
        my $body = substr(join('', map { chr($_ % 251) } 0 .. 1000) x (1 + $size / 1001), 0, $size);
        $channel->publish(routing_key => $queue, body => $body);
        till('it', sub { count_of($channel, $queue) == 1 });
        die "a body of $size" unless body_of(get($channel, $queue)) eq $body;
    }
};

# How the broker closes a channel that this misuses.
sub channel_closed {
    my ($client, $misuse) = @_;
    my $said = '';
    my $channel = open_channel($client, on_close => sub { $said = reason(@_) });
    $misuse->($channel);
    till('the close', sub { $said ne '' });
    return $said;
}

scenario errors_of_channels => sub {
    my $client = connect_to();
    my $declare = sub {
        my ($method, %args) = @_;
        return sub { $_[0]->$method(%args, on_success => sub { }, on_failure => sub { }) };
    };
    same("404 NOT_FOUND - no queue 'missing' in vhost '/'",
        channel_closed($client, $declare->('declare_queue', queue => 'missing', passive => 1)));
    same("403 ACCESS_REFUSED - exchange name 'amq.mine' contains reserved prefix 'amq.*'",
        channel_closed($client, $declare->('declare_exchange', exchange => 'amq.mine', type => 'direct')));
    my $name = "errors-$$-" . int(time * 1000);
    queue_for(open_channel($client), queue => $name);
    my $other = $declare->('declare_queue', queue => $name, exclusive => 1, auto_delete => 1);
    die '406' unless channel_closed($client, $other) =~
        /^406 PRECONDITION_FAILED - inequivalent arg 'auto_delete' for queue '\Q$name\E'/;
    die '405' unless channel_closed(connect_to(), $other) =~
        /^405 RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '\Q$name\E'/;
    same('406 PRECONDITION_FAILED - unknown delivery tag 42',
        channel_closed($client, sub { $_[0]->ack(delivery_tag => 42) }));
    die 'the connection goes on' unless $client->is_open;
};

scenario logins_that_are_refused => sub {
    refused(qr/403|refused|closed|broken/i, sub { connect_to(pass => 'wrong') });
    refused(qr/530 NOT_ALLOWED - vhost missing not found/, sub { connect_to(vhost => 'missing') });
};

scenario a_new_connection_after_a_cut => sub {
    my $name = "cut-$$-" . int(time * 1000);
    my $lost = 0;
    my $client = connect_to(on_close => sub { $lost++ });
    my $channel = open_channel($client);
    call($channel, 'declare_queue', queue => $name, durable => 1, auto_delete => 0);
    $channel->publish(routing_key => $name, body => 'kept', header => {delivery_mode => 2});
    till('it', sub { count_of($channel, $name) == 1 });
    get($channel, $name, no_ack => 0);
    shutdown($client->{_handle}->fh, 2);
    till('the loss', sub { $lost });
    $channel = open_channel(connect_to());
    till('what was not acknowledged', sub { count_of($channel, $name) == 1 });
    my $again = get($channel, $name);
    same(['kept', 1], [body_of($again), 0 + $again->{ok}->method_frame->redelivered]);
    call($channel, 'delete_queue', queue => $name);
};

scenario tls => sub {
    my $channel = open_channel(connect_to(
        address($ENV{AMQPS_URL}), tls => 1,
        tls_ctx => {verify => 1, verify_peername => 'https', ca_file => "$ENV{CERTIFICATES}/ca.pem"},
    ));
    my $queue = queue_for($channel);
    my $body = join('', map { chr($_ % 256) } 0 .. 99_999);
    $channel->publish(routing_key => $queue, body => $body);
    till('it', sub { count_of($channel, $queue) == 1 });
    die 'the body' unless body_of(get($channel, $queue)) eq $body;
};

scenario tls_with_an_authority_that_is_not_trusted => sub {
    refused(qr/./, sub {
        connect_to(address($ENV{AMQPS_URL}), tls => 1,
            tls_ctx => {verify => 1, ca_file => "$ENV{CERTIFICATES}/other-ca.pem"});
    });
};

for (@ALL) {
    my ($name, $run) = @$_;
    next if @ARGV && !grep { $_ eq $name } @ARGV;
    my $begun = time;
    my $ok = eval { $run->(); 1 };
    my %said = (
        name    => $name,
        outcome => $ok ? 'pass' : 'fail',
        detail  => $ok ? '' : "$@",
        seconds => time - $begun,
    );
    print JSON::PP->new->ascii->encode(\%said), "\n";
}
