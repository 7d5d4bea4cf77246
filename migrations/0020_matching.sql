-- Who takes which events is remembered by the nodes. What a node remembers of a partner holds as long as the partner's version here is the one
-- under which it was read; an insert of events looks whether it is, and writes nothing otherwise. A partner whose subscriptions never
-- changed has no row, and version 0. A table of its own, because whoever changes subscriptions may hold the partner's own row for long.
create table matching_versions (
    partner_id  uuid primary key references partners (id),
    version     bigint not null default 1 check (version > 0)
) with (fillfactor = 50);

-- Every change of what decides who takes an event, and how its delivery begins, moves the version on, by whomever it is made. That happens at
-- the end of the transaction, so that this row is locked last and only for the commit, and once in a row for the same partner.
create function herald_matching_changed() returns trigger
    language plpgsql
    as $$
        declare
            partner uuid;
            this text;
        begin
            if tg_op = 'DELETE' then
                partner := old.partner_id;
            else
                partner := new.partner_id;
            end if;
            this := pg_current_xact_id() || ' ' || partner;
            if current_setting('herald.matching_changed', true) is distinct from this then
                insert into matching_versions as m (partner_id) values (partner)
                on conflict (partner_id) do update set version = m.version + 1;
                perform set_config('herald.matching_changed', this, true);
            end if;
            return null;
        end
    $$;
create constraint trigger matching_changed after insert or delete or update of partner_id, subscription_id, event_type, campaign_names
    on subscription_event_types deferrable initially deferred for each row execute function herald_matching_changed();
create constraint trigger matching_changed after update of state, callback_id on subscriptions deferrable initially deferred for each row
    when (old.state <> new.state or old.callback_id <> new.callback_id) execute function herald_matching_changed();
create constraint trigger matching_changed after update of batch_size on callbacks deferrable initially deferred for each row
    when (old.batch_size <> new.batch_size) execute function herald_matching_changed();

-- What was only looked at counts as well now.
drop function herald_expect(bigint, bigint);
create function herald_expect(counted bigint, expected bigint) returns boolean
    language plpgsql volatile
    as $$
        begin
            if counted <> expected then
                raise exception 'others changed what was to be written: % were as they should be, where % had to', counted, expected using errcode = 'serialization_failure';
            end if;
            return true;
        end
    $$;
