#!/usr/bin/env bash
# Every code of the redirect surface's error table, and every success, by the curl line that causes it.
#
#   tests/curl/redirect.sh API OPERATOR KEY
#
# API and OPERATOR are base URLs of a development server, KEY its development key. Prints each line with its answer; ends with 1 if one
# was not as expected.
set -uo pipefail
api=$1 operator=$2 key=$3
subscriptions=$api/redirect-session-events/subscriptions
json='content-type: application/json'
failures=0
# So that a second run over the same data finds nothing of the first.
run=$(cat /proc/sys/kernel/random/uuid 2>/dev/null || uuidgen)
answer=$(mktemp)
trap 'rm -f "$answer"' EXIT

uuid() { cat /proc/sys/kernel/random/uuid 2>/dev/null || uuidgen; }

# The first string member of that name in a JSON text.
member() { tr -d '\0' | sed -n "s/^[^\n]*[{,]\"$1\":\"\([^\"]*\)\".*/\1/p" | head -n 1; }

# expect STATUS CODE CURL-ARGUMENTS…: CODE is the error's code, or - for a success.
expect() {
  local status=$1 code=$2 got got_code shown
  shift 2
  got=$(curl -s -o "$answer" -w '%{http_code}' "$@")
  got_code=$(member code <"$answer")
  got_code=${got_code:--}
  shown=${*//$key/KEY}
  printf '%-4s%-40s curl %s\n' "$got" "$got_code" "${shown//${another:-$key}/ANOTHER}"
  if [ "$got" != "$status" ] || [ "$got_code" != "$code" ]; then
    printf 'EXPECTED %s %s, got: %s\n' "$status" "$code" "$(cat "$answer")"
    failures=$((failures + 1))
  fi
}

# The same, as the development partner.
as_dev() { expect "$1" "$2" -H "x-api-key: $key" "${@:3}"; }

made() { curl -s -H "x-api-key: $key" -H "$json" "$@" | member id; }

subscription() {
  printf '{"callbackUrl":"http://127.0.0.1:9/%s/%s","apiKey":"callback-key","eventTypes":["RedirectSessionCancelled"]}' "$run" "$1"
}
session() {
  printf '{"type":"NewCustomer"%s,"redirectData":{"successUrl":"https://shop.example/s","failureUrl":"https://shop.example/f","abortUrl":"https://shop.example/a","qrCodeSuccessUrl":"https://shop.example/%s"}}' \
    "$1" "$2"
}

# Another partner, and a customer of the development partner who will be erased.
partner=$(made "$operator/partners" -d '{"name":"Another"}')
another=$(curl -s -H "x-api-key: $key" -H "$json" "$operator/partners/$partner/keys" -d '{"scopes":["partner"]}' | member key)
own=$(curl -s -X PUT -H "x-api-key: $key" -H "$json" "$api/redirect-sessions/$(uuid)" -d "$(session '' q)" | member merchantId)
customer=$(made "$operator/partners/$own/customers" -d '{}')

s=$(uuid) t=$(uuid) a=$(uuid) b=$(uuid) c=$(uuid)

echo '# Subscriptions'
as_dev 201 - -X PUT "$subscriptions/$s" -H "$json" -d "$(subscription one)"
as_dev 200 - -X PUT "$subscriptions/$s" -H "$json" -d "$(subscription one)"
as_dev 201 - -X POST "$subscriptions" -H "$json" -d "$(subscription two)"
as_dev 200 - "$subscriptions/$s"
as_dev 200 - "$subscriptions?limit=1"
as_dev 200 - -X PATCH "$subscriptions/$s" -H "$json" -H 'If-Match: "2"' -d '{"apiKey":"another-key"}'
as_dev 400 Validation -X PUT "$subscriptions/$s" -H "$json" -d '{"callbackUrl":"ftp://shop.example","apiKey":"a b","eventTypes":[]}'
as_dev 400 Validation -X PATCH "$subscriptions/$s" -H "$json" -d '{}'
as_dev 400 Validation "$subscriptions?limit=-1"
expect 401 Unauthorized "$subscriptions/$s"
expect 403 InvalidTriggeredBy -H "x-api-key: $another" "$subscriptions/$s"
expect 403 InvalidTriggeredBy -X PUT -H "x-api-key: $another" "$subscriptions/$s" -H "$json" -d "$(subscription one)"
expect 403 InvalidTriggeredBy -X PATCH -H "x-api-key: $another" "$subscriptions/$s" -H "$json" -d '{"apiKey":"k"}'
as_dev 404 SubscriptionNotFound "$subscriptions/$t"
as_dev 404 SubscriptionNotFound -X PATCH "$subscriptions/$t" -H "$json" -d '{"apiKey":"k"}'
as_dev 404 SubscriptionNotFound -X DELETE "$subscriptions/$t"
as_dev 409 EntityVersionMismatch -X PATCH "$subscriptions/$s" -H "$json" -H 'If-Match: "1"' -d '{"apiKey":"k"}'
as_dev 409 DuplicateEntity -X PUT "$subscriptions/$t" -H "$json" -d "$(subscription one)"
as_dev 409 DuplicateEntity -X POST "$subscriptions" -H "$json" -d "$(subscription two)"

echo '# Sessions'
as_dev 200 - -X PUT "$api/redirect-sessions/$a" -H "$json" -d "$(session '' q)"
as_dev 200 - -X PUT "$api/redirect-sessions/$b" -H "$json" -d "$(session ",\"customerId\":\"$customer\"" q)"
as_dev 200 - "$api/redirect-sessions/$a"
as_dev 400 Validation -X PUT "$api/redirect-sessions/$c" -H "$json" -d '{"type":"NewTransactionIntent"}'
as_dev 400 Validation -X POST "$api/redirect-sessions/no-uuid/cancel"
expect 400 InvalidTriggeredBy -X PUT -H "x-api-key: $another" "$api/redirect-sessions/$a" -H "$json" -d "$(session '' q)"
expect 400 InvalidTriggeredBy -X POST -H "x-api-key: $another" "$api/redirect-sessions/$a/cancel"
as_dev 404 CustomerNotFound -X PUT "$api/redirect-sessions/$c" -H "$json" -d "$(session ",\"customerId\":\"$(uuid)\"" q)"
as_dev 409 DuplicateEntity -X PUT "$api/redirect-sessions/$a" -H "$json" -d "$(session '' other)"
as_dev 409 EntityVersionMismatch -X POST "$api/redirect-sessions/$a/cancel" -H 'If-Match: "9"'
as_dev 200 - -X POST "$api/redirect-sessions/$a/cancel"
as_dev 400 InvalidRedirectSessionStateTransition -X POST "$api/redirect-sessions/$a/cancel"
as_dev 404 RedirectSessionNotFound -X POST "$api/redirect-sessions/$c/cancel"
as_dev 404 RedirectSessionNotFound "$api/redirect-sessions/$c"
as_dev 204 - -X DELETE "$operator/customers/$customer"
as_dev 404 CustomerNotFound -X POST "$api/redirect-sessions/$b/cancel"

echo '# Around them'
as_dev 404 ResourceNotFound "$api/nowhere"
as_dev 405 MethodNotAllowed -X DELETE "$api/redirect-sessions/$a"
as_dev 415 UnsupportedMediaType -X PUT "$subscriptions/$s" -H 'content-type: text/plain' -d 'x'
head -c 2000000 /dev/zero >"$answer.large"
as_dev 413 PayloadTooLarge -X PUT "$subscriptions/$s" -H "$json" --data-binary "@$answer.large"
rm -f "$answer.large"
as_dev 200 - -X DELETE "$subscriptions/$s"

exit $((failures > 0))
