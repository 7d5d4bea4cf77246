"""What schemathesis cannot know from openapi.yaml: that some values are used up by use, and where it may send things."""

import itertools
import json
import uuid

import schemathesis
from hypothesis import strategies

# Every URL that is made up points at the discard port of this machine, where nobody listens, so that no callback of a
# fuzzed subscription leaves it.
LOOPBACK = "http://127.0.0.1:9"
EXAMPLES = "https://partner.example"

for made_up in ("uri", "callback-url"):
    here = strategies.from_regex(r"http://127\.0\.0\.1:9/[a-z0-9]{8,32}", fullmatch=True)
    schemathesis.openapi.format(made_up, here)

used = itertools.count()

# The name of the callback that was last asked for, for subscriptions to use: a made-up one is never there.
callback_name = "Email_Callback"


@schemathesis.serializer("application/x-ndjson")
def lines_of_json(context, value):
    """A batch is a text of lines; whatever else is made up for one goes as a single line."""
    if isinstance(value, bytes):
        return value
    return as_text(value)


@schemathesis.serializer("text/jsv", "application/xml")
def text_as_it_is(context, value):
    """JSV and XML are texts to the document; what else is made up for them goes as JSON, to be refused."""
    return value if isinstance(value, bytes) else as_text(value)


def as_text(value):
    text = value if isinstance(value, str) else json.dumps(value)
    return text.encode("utf-8", "surrogatepass")



@schemathesis.hook
def before_call(context, case, kwargs):
    number = next(used)
    fresh_request_id(case)
    if case.meta is None or case.meta.generation.mode.is_positive:
        fresh_callback(case, number)
        fitting_notification(case, number)
        if number % 4:
            without_conditions(case)
    else:
        callback_on_this_machine(case, number)


def fresh_request_id(case):
    """The idempotency key may be used once, but generators like to repeat a value: each request gets one of its own.
    A value that is no uuid was made to be refused and is left alone."""
    for name in list(case.headers or {}):
        if name.lower() == "x-request-id" and is_uuid(case.headers[name]):
            case.headers[name] = str(uuid.uuid4())


def fresh_callback(case, number):
    """Two subscriptions of a partner with one callback are a DuplicateEntity, and addresses that fit the schema may be
    refused by the egress guard. So each request that is meant to be right gets a callback of its own, on this machine,
    as long as the one it had."""
    for name in ("callbackUrl", "url"):
        if isinstance(case.body, dict) and isinstance(case.body.get(name), str):
            case.body[name] = f"{LOOPBACK}/{number}-{uuid.uuid4()}".ljust(len(case.body[name]), "x")


def fitting_notification(case, number):
    """A callback's name can be taken once, a subscription needs a callback that is there, and each event type can be in
    one active subscription. So that some requests get beyond that, most callbacks get a name of their own, most
    subscriptions the last of those, and one event type."""
    global callback_name
    body = case.body if isinstance(case.body, dict) else {}
    if "batchSize" in body and "name" in body and number % 4:
        callback_name = body["name"] = f"{number}-{uuid.uuid4()}"
    if "callBackName" in body and "eventTypes" in body and number % 4:
        body["callBackName"] = callback_name
        body["eventTypes"] = body["eventTypes"][:1]


def callback_on_this_machine(case, number):
    """A request that is wrong elsewhere keeps a good callback good."""
    for name in ("callbackUrl", "url"):
        if isinstance(case.body, dict) and str(case.body.get(name)).startswith((EXAMPLES, LOOPBACK)):
            fresh_callback(case, number)


def without_conditions(case):
    """A made-up version never holds and a made-up customer never exists. Now and then is often enough to ask for them:
    what lies behind them is worth more tries."""
    for name in list(case.headers or {}):
        if name.lower() == "if-match":
            del case.headers[name]
    if isinstance(case.body, dict):
        case.body.pop("customerId", None)


def is_uuid(value):
    try:
        return str(uuid.UUID(value)) == value.lower()
    except (AttributeError, TypeError, ValueError):
        return False
