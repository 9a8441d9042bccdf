"""/definitions: everything but messages, as RabbitMQ's JSON, out and in."""

from __future__ import annotations

from amqpd.broker.definitions_export import export_definitions, export_vhost_definitions
from amqpd.management.auth import administrators
from amqpd.management.call import Answer, Call, done
from amqpd.management.errors import bad_request, not_found
from amqpd.management.routing import Table

FILE_FIELD = "file"
"""The field of a form that has the definitions."""


def export(call: Call) -> Answer:
    """Of the whole broker, or of one virtual host."""
    if "vhost" not in call.parameters:
        return Answer(body=export_definitions(call.broker))
    if call["vhost"] not in call.broker.virtual_hosts:
        raise bad_request("vhost_not_found")
    return Answer(body=export_vhost_definitions(call.broker, call["vhost"]))


def load(call: Call) -> Answer:
    """Take them in, wholly or not at all."""
    vhost = call.parameters.get("vhost")
    if vhost is not None and vhost not in call.broker.virtual_hosts:
        raise not_found("vhost_not_found")
    try:
        call.node.import_definitions(_document(call), vhost, call.user.name)
    except ValueError as error:
        raise bad_request(str(error)) from error
    return done()


def _document(call: Call) -> bytes:
    """The body, or the file in a form. Raises 400."""
    kind = call.headers.get("content-type", "")
    if not kind.startswith("multipart/form-data"):
        return call.body or b"{}"
    # Here, since few ever send a form: together they are a megabyte.
    from email.message import EmailMessage
    from email.parser import BytesParser
    from email.policy import HTTP

    form = BytesParser(policy=HTTP).parsebytes(
        b"Content-Type: " + kind.encode("latin-1", "replace") + b"\r\n\r\n" + call.body
    )
    for part in form.iter_parts():
        assert isinstance(part, EmailMessage)
        if part.get_param("name", header="content-disposition") == FILE_FIELD:
            content = part.get_payload(decode=True)
            return content if isinstance(content, bytes) else b""
    raise bad_request("no_file")


def register(table: Table) -> None:
    """The paths."""
    for path in ("/definitions", "/all-configuration"):
        table.add(path, GET=(export, administrators), POST=(load, administrators))
    table.add("/definitions/{vhost}", GET=(export, administrators), POST=(load, administrators))
