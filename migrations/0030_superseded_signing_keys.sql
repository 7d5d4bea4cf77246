-- Signing keys that were superseded and still sign beside their callback's own, each until its own day is over: with one place for them, a
-- second change within the day ended the first key's early. Sealed by the key ring. Read with the callback, by its id.
-- Nobody changes a key meanwhile, whose predecessor would be left behind.
lock table callbacks in access exclusive mode;
create table superseded_signing_keys (
    partner_id   uuid not null,
    callback_id  uuid not null references callbacks (id),
    id           uuid not null default gen_random_uuid(),
    signing_key  bytea not null check (length(signing_key) <= 1024),
    valid_until  timestamptz not null,
    primary key (callback_id, id)
);
insert into superseded_signing_keys (partner_id, callback_id, signing_key, valid_until)
select partner_id, id, previous_signing_key, previous_signing_key_until from callbacks where previous_signing_key_until > herald_now();
alter table callbacks drop column previous_signing_key, drop column previous_signing_key_until;
