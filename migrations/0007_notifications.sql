-- The notifications surface: tokens that stand for a key for a few hours, callbacks that are named and shared, and filters.

-- What finds and proves a token is one hash of it: a token has 256 random bits. It can do no more than its key, and nothing once that is
-- revoked or has expired.
create table access_tokens (
    hash        bytea primary key check (length(hash) = 32),
    partner_id  uuid not null references partners (id),
    key_id      uuid not null references api_keys (id),
    issued_at   timestamptz not null default herald_now(),
    expires_at  timestamptz not null,
    check (expires_at > issued_at)
);
-- Serves: the janitor, which forgets tokens that have expired.
create index access_tokens_expires_at on access_tokens (expires_at);

-- The filters of a subscription as its owner set them, [{"eventTypes": […], "values": [{"campaignNames": […]}]}]; null where there are none.
alter table subscriptions add column filters jsonb check (jsonb_typeof(filters) = 'array');
-- The same filters as matching reads them, by event type: the campaigns whose events pass. Null, which is what most rows have, lets every
-- event pass.
alter table subscription_event_types add column campaign_names text[];
-- Where its owner named the type among the others: they are shown in that order. Null where they are shown sorted.
alter table subscription_event_types add column place smallint check (place > 0);
-- Serves: the subscriptions of a callback that is named, which may not go while it has any.
create index subscriptions_callback on subscriptions (callback_id) where state <> 'deleted';
