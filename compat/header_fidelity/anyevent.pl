# What AnyEvent::RabbitMQ writes into headers. It cannot read a dead letter's: their count is an
# int64. What it cannot decode it gets all the same, and the recorder has kept it.

use strict;
use warnings;
use utf8;

use AnyEvent;
use AnyEvent::RabbitMQ;
use Net::AMQP::Value;

my ($user, $pass, $host, $port) = $ENV{AMQP_URL} =~ m{^amqp://([^:]+):([^@]+)@([^:/]+):(\d+)};
my $client = AnyEvent::RabbitMQ->new->load_xml_spec;

sub call {
    my ($target, $method, %args) = @_;
    my $cv = AnyEvent->condvar;
    my $timer = AnyEvent->timer(after => 10, cb => sub { $cv->croak("$method: no answer") });
    $target->$method(%args, on_success => sub { $cv->send(@_) },
        on_failure => sub { $cv->croak("$method: @_") });
    return $cv->recv;
}

call($client, 'connect', host => $host, port => $port, user => $user, pass => $pass,
    vhost => '/', timeout => 5);
my $channel = call($client, 'open_channel');
my %headers = (
    text => 'plain', digits => '17', int => Net::AMQP::Value::Integer->new(70_000),
    time => Net::AMQP::Value::Timestamp->new(1_700_000_000),
    true => Net::AMQP::Value::true, list => [1, 'two', ['three']], table => {deep => {deeper => 'x'}},
);
$channel->publish(routing_key => 'fidelity', body => 'x', header => {headers => \%headers});

sub take {
    my ($queue) = @_;
    for (1 .. 500) {
        my $got = call($channel, 'get', queue => $queue, no_ack => 0);
        return $got->{ok}->method_frame->delivery_tag unless $got->{empty};
        select undef, undef, undef, 0.02;
    }
    die "nothing came to $queue";
}

$channel->reject(delivery_tag => take('fidelity'), requeue => 0);
eval { take('fidelity.dead') };
