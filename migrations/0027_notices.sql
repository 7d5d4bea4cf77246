-- What partners are to be told about their own subscriptions: that one was disabled because of its callback. Commits with the change that it speaks
-- of, and becomes an event of theirs by a statement that deletes it: both or neither.
create table notices (
    partner_id       uuid not null,
    subscription_id  uuid not null,
    -- Of the subscription as it was disabled: it may be disabled again.
    version          bigint not null,
    reason           text not null check (length(reason) <= 1000),
    disabled_at      timestamptz not null default herald_now(),
    primary key (partner_id, subscription_id, version)
);
