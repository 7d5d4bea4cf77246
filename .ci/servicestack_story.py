"""A partner with a ServiceStack client: subscribes, receives, reads the history, changes the secret and deletes."""

import base64
import hashlib
import hmac
import json
import queue
import sys
import threading
import time
import urllib.request
import uuid
from dataclasses import dataclass
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import List, Optional

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from dataclasses_json import LetterCase, dataclass_json
from servicestack import IGet, IPost, IReturn, JsonServiceClient, WebServiceException
from standardwebhooks import Webhook


def dto(cls):
    """As ServiceStack's own generator declares the classes of a service."""
    return dataclass_json(letter_case=LetterCase.CAMEL)(dataclass(cls))


@dto
class SubscriptionConfig:
    url: Optional[str] = None
    content_type: Optional[str] = None
    secret: Optional[str] = None


@dto
class WebhookSubscription:
    id: Optional[str] = None
    name: Optional[str] = None
    event: Optional[str] = None
    is_active: Optional[bool] = None
    created_date_utc: Optional[datetime] = None
    created_by_id: Optional[str] = None
    last_modified_date_utc: Optional[datetime] = None
    config: Optional[SubscriptionConfig] = None


@dto
class SubscriptionDeliveryResult:
    attempted_date_utc: Optional[datetime] = None
    status_description: Optional[str] = None
    status_code: Optional[str] = None
    subscription_id: Optional[str] = None
    id: Optional[str] = None
    event_id: Optional[str] = None


@dto
class SubscriptionResponse:
    subscription: Optional[WebhookSubscription] = None
    history: Optional[List[SubscriptionDeliveryResult]] = None


@dto
class CreateWebhookSubscriptions(IReturn[List[SubscriptionResponse]], IPost):
    name: Optional[str] = None
    events: Optional[List[str]] = None
    url: Optional[str] = None
    content_type: Optional[str] = None
    secret: Optional[str] = None
    public_key_xml: Optional[str] = None
    account_id: Optional[str] = None


@dto
class FindWebhookSubscription(IReturn[SubscriptionResponse], IGet):
    event_name: Optional[str] = None
    account_id: Optional[str] = None


@dto
class GetWebhookSubscriptionAsync(IReturn[SubscriptionResponse], IGet):
    id: Optional[str] = None


@dto
class UpdateWebhookSubscription(IReturn[SubscriptionResponse], IPost):
    id: Optional[str] = None
    name: Optional[str] = None
    current_secret: Optional[str] = None
    new_secret: Optional[str] = None
    is_active: Optional[bool] = None


@dto
class DeleteWebhookSubscriptionAsync(IReturn[SubscriptionResponse], IPost):
    id: Optional[str] = None
    secret: Optional[str] = None


class Receiver(BaseHTTPRequestHandler):
    calls = queue.Queue()

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        Receiver.calls.put((dict(self.headers.items()), body))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


class Owner:
    """Holds the key pair and the present secret."""

    def __init__(self):
        self.private_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        numbers = self.private_key.public_key().public_numbers()
        as_base64 = lambda number: base64.b64encode(number.to_bytes((number.bit_length() + 7) // 8, "big")).decode()
        self.public_key_xml = (
            f"<RSAKeyValue><Modulus>{as_base64(numbers.n)}</Modulus>"
            f"<Exponent>{as_base64(numbers.e)}</Exponent></RSAKeyValue>"
        )

    def opens(self, shown):
        oaep = padding.OAEP(mgf=padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=None)
        return self.private_key.decrypt(base64.b64decode(shown.subscription.config.secret), oaep).decode()


def is_signed(call, secret):
    headers, body = call
    digest = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    assert headers["x-hub-signature"] == f"sha1={digest}", headers
    Webhook(base64.b64encode(secret.encode()).decode()).verify(body, headers)


def refusal(client, request):
    try:
        client.send(request)
    except WebServiceException as refused:
        return refused.status_code, refused.response_status.error_code
    raise AssertionError(f"{request} was not refused")


def publish(operator_url, key, event, data):
    body = json.dumps({"type": event, "data": data}).encode()
    headers = {"x-api-key": key, "content-type": "application/json"}
    request = urllib.request.Request(f"{operator_url}/events", body, headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert json.load(answer)["matched"] == 1


def story(client, owner, receiver_url, publish_event):
    event = f"order_{uuid.uuid4().hex}"
    secret, new_secret = (base64.b64encode(uuid.uuid4().bytes).decode() for _ in range(2))
    wish = CreateWebhookSubscriptions(
        name="Orders", events=[event], url=receiver_url, content_type="application/json", secret=secret,
        public_key_xml=owner.public_key_xml, account_id="0123456789",
    )
    made = client.send(wish)
    assert len(made) == 1 and made[0].subscription.is_active and made[0].history == [], made
    assert made[0].subscription.event == event and owner.opens(made[0]) == secret
    assert isinstance(made[0].subscription.created_date_utc, datetime)
    assert refusal(client, wish) == (409, "Conflict")

    found = client.send(FindWebhookSubscription(event_name=event))
    subscription_id = found.subscription.id
    assert subscription_id == made[0].subscription.id and owner.opens(found) == secret
    assert refusal(client, FindWebhookSubscription(event_name="nobody_wants_this")) == (404, "NotFound")
    assert refusal(client, FindWebhookSubscription()) == (400, "BadRequest")

    publish_event(event, {"order": 1})
    call = Receiver.calls.get(timeout=30)
    assert call[0]["x-webhook-event"] == event and json.loads(call[1]) == {"order": 1}
    is_signed(call, secret)
    deadline = time.monotonic() + 10
    history = []
    while not history:
        assert time.monotonic() < deadline, "the attempt is not in the history"
        history = client.send(GetWebhookSubscriptionAsync(id=subscription_id)).history
    assert history[0].status_code == "NoContent" and history[0].subscription_id == subscription_id

    change = UpdateWebhookSubscription(id=subscription_id, current_secret=secret, new_secret=new_secret, name="Renamed")
    changed = client.send(change)
    assert changed.subscription.name == "Renamed" and owner.opens(changed) == new_secret
    assert refusal(client, change) == (403, "Forbidden")
    publish_event(event, {"order": 2})
    call = Receiver.calls.get(timeout=30)
    is_signed(call, new_secret)
    Webhook(base64.b64encode(secret.encode()).decode()).verify(call[1], call[0])

    assert refusal(client, DeleteWebhookSubscriptionAsync(id=subscription_id, secret=secret)) == (403, "Forbidden")
    gone = client.send(DeleteWebhookSubscriptionAsync(id=subscription_id, secret=new_secret))
    assert gone.subscription.id == subscription_id and gone.subscription.is_active and len(gone.history) >= 1
    assert refusal(client, DeleteWebhookSubscriptionAsync(id=subscription_id, secret=new_secret)) == (404, "NotFound")
    assert refusal(client, GetWebhookSubscriptionAsync(id="no-guid")) == (400, "BadRequest")


def main(api_url, key, operator_url):
    receiver = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=receiver.serve_forever, daemon=True).start()
    receiver_url = f"http://127.0.0.1:{receiver.server_port}/in"
    owner = Owner()
    publish_event = lambda event, data: publish(operator_url, key, event, data)

    bearer = JsonServiceClient(api_url)
    bearer.set_bearer_token(key)
    story(bearer, owner, receiver_url, publish_event)
    print("by /api and a bearer token: ok")
    basic = JsonServiceClient(api_url).set_base_path()
    basic.set_credentials(key, "")
    story(basic, owner, receiver_url, publish_event)
    print("by /json/reply and Basic credentials: ok")
    stranger = JsonServiceClient(api_url)
    assert refusal(stranger, FindWebhookSubscription(event_name="anything")) == (401, "Unauthorized")
    print("without a key: refused")


main(*sys.argv[1:])
