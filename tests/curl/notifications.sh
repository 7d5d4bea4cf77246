#!/usr/bin/env bash
# Every failure that is published for the update of a subscription, by PUT and by the GET that is printed, and what goes before them,
# by the curl line that causes it.
#
#   tests/curl/notifications.sh API KEY
#
# API is the base URL of a development server, KEY its development key, whose partner has no active subscription to the types
# EMAIL_BOUNCED and SMS_MO_FW_FAILED. Prints each line with its answer; ends with 1 if one was not as expected.
set -uo pipefail
api=$1/rest/api/v1.3 key=$2
json='content-type: application/json'
failures=0
# So that a second run over the same data finds nothing of the first.
run=$(cat /proc/sys/kernel/random/uuid 2>/dev/null || uuidgen)
answer=$(mktemp)
trap 'rm -f "$answer"' EXIT

# expect STATUS TEXT CURL-ARGUMENTS…: TEXT is the error's detail, whole, or what a success says somewhere.
expect() {
  local status=$1 text=$2 got said shown
  shift 2
  got=$(curl -s -o "$answer" -w '%{http_code}' -H "authorization: $key" -H "$json" "$@")
  said=$text
  if [ "$status" != 200 ]; then said="\"detail\":\"$text\",\"errorDetails\":[]}"; fi
  shown=$*
  printf '%-4s%-88s curl %s\n' "$got" "$text" "${shown//$run/RUN}"
  if [ "$got" != "$status" ] || ! grep -qF -- "$said" "$answer"; then
    printf 'EXPECTED %s %s, got: %s\n' "$status" "$text" "$(cat "$answer")"
    failures=$((failures + 1))
  fi
}

callback() {
  printf '{"name":"%s","url":"http://127.0.0.1:9/%s","batchSize":%s,"authentication":{"type":"B","data":{"userName":"u","password":"p"}}}' "$1" "$1" "$2"
}
c=c-$run s=s-$run t=t-$run
subscriptions=$api/notifications/subscriptions

echo '# Callbacks and subscriptions'
expect 200 "\"name\":\"$c\"" -X POST "$api/notifications/callbacks" -d "$(callback "$c" 100)"
expect 400 "Callback with name [$c] already exists" -X POST "$api/notifications/callbacks" -d "$(callback "$c" 100)"
expect 400 'batchSize must be a whole number from 1 to 200' -X POST "$api/notifications/callbacks" -d "$(callback "d-$run" 201)"
expect 400 "Could not connect to callback url [http://127.0.0.1:9/$c ]" "$api/notifications/callbacks/$c/actions/verify"
expect 400 "Could not connect to callback url [http://127.0.0.1:9/$c ]" "$api/notifications/callbacks/$c?action=verify"
expect 200 '"status":"ACTIVE"' -X POST "$subscriptions" -d "{\"name\":\"$s\",\"callBackName\":\"$c\",\"eventTypes\":[\"EMAIL_BOUNCED\"]}"
expect 200 '"status":"ACTIVE"' -X POST "$subscriptions" -d "{\"name\":\"$t\",\"callbackName\":\"$c\",\"eventNames\":[\"SMS_MO_FW_FAILED\"]}"
expect 400 'Subscription with same name already exists' -X POST "$subscriptions" -d "{\"name\":\"$s\",\"callBackName\":\"$c\",\"eventTypes\":[\"SMS_FAILED\"]}"
expect 200 "\"subscriptionName\":\"$s\"" "$subscriptions/$s"
expect 200 '"WEBPUSH_OPTOUT"' "$api/notifications/eventList"

for method in PUT GET; do
  echo "# The update's failures, by $method"
  # failure STATUS DETAIL NAME CALLBACK EVENT-TYPES REST
  failure() { expect "$1" "$2" -X "$method" "$subscriptions/$3" -d "{\"callBackName\":\"$4\",\"eventTypes\":$5$6}"; }
  failure 404 "Subscription with name [none-$run ] not found" "none-$run" "$c" '["EMAIL_BOUNCED"]' ''
  failure 404 "Subscription [$s ] does not exists" "$s" "none-$run" '["EMAIL_BOUNCED"]' ''
  failure 404 'Event Type [ SMS_FAILED1 ] not found or is not supported' "$s" "$c" '["SMS_FAILED1"]' ''
  failure 400 'Event type is empty or null' "$s" "$c" '[]' ''
  failure 400 'Event type is empty or null' "$s" "$c" 'null' ''
  failure 400 'Subscription status cannot be empty or null' "$s" "$c" '["EMAIL_BOUNCED"]' ',"status":null'
  failure 400 'Subscription status cannot be empty or null' "$s" "$c" '["EMAIL_BOUNCED"]' ',"status":""'
  failure 400 'Subscription status can only be ACTIVE or PAUSED' "$s" "$c" '["EMAIL_BOUNCED"]' ',"status":"STOPPED"'
  failure 400 'Duplicate event types found in the request' "$s" "$c" '["EMAIL_BOUNCED","EMAIL_BOUNCED"]' ''
  failure 400 "There's an active subscription for event [ SMS_MO_FW_FAILED ] with other subscriptions" "$s" "$c" '["SMS_MO_FW_FAILED"]' ''
  failure 200 '"status":"PAUSED"' "$s" "$c" '["EMAIL_BOUNCED"]' ',"status":"PAUSED","statusReason":"maintenance"'
done

echo '# Around them'
expect 404 'There is nothing at this path' "$api/nowhere"
expect 405 'This path has no such method; the Allow header lists those it has' -X PATCH "$subscriptions"
expect 400 'Subscription with same name already exists' -X DELETE "$api/notifications/callbacks/$c"
expect 200 "Subscription [$s ] deleted successfully" -X DELETE "$subscriptions/$s"
expect 200 "Subscription [$t ] deleted successfully" -X DELETE "$subscriptions/$t"
expect 404 "Subscription with name [$s] not found" "$subscriptions/$s"
expect 200 "CallBack [$c ] deleted successfully" -X DELETE "$api/notifications/callbacks/$c"
expect 404 "CallBack [$c] not found" "$api/notifications/callbacks/$c"
expect 401 'Token expired' -H 'x-api-key: ht_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA' "$api/notifications/callbacks"
expect 400 'Login failed' -X POST "$api/auth/token?user_name=nobody&password=nothing&auth_type=password"

exit $((failures > 0))
