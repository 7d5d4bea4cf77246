-- The webhooks surface: what a subscription there has besides what all subscriptions have. Its id, event, callback, state and version are in
-- the core's tables; the account is told apart by subscription_event_types.exclusive_in, the digest of account_id.

-- The secret of a webhook is its callback's credentials: it signs deliveries and proves the owner. It is the one secret that a query of a
-- request reads back, to compare it with what is presented and to show it encrypted to recipient_key, the owner's RSA public key
-- (SubjectPublicKeyInfo). Rows outlive their subscription's deletion together with it.
create table webhooks (
    subscription_id  uuid primary key references subscriptions (id),
    partner_id       uuid not null references partners (id),
    name             text check (length(name) between 1 and 100),
    account_id       text check (length(account_id) between 1 and 100),
    recipient_key    bytea check (length(recipient_key) <= 2048)
);
-- Serves: list the subscriptions of one account.
create index webhooks_account on webhooks (partner_id, account_id);
