-- What a subscription's filters weigh: each campaign's name, with 24 bytes beside its own, once for each type that it is given for. A partner's may
-- weigh only so much together (`domain/notification`), because whoever matches an event has those of its type in memory.
alter table subscriptions add column filters_bytes integer not null default 0 check (filters_bytes >= 0);
update subscriptions set filters_bytes = weight.bytes
from (
    select s.id, sum(jsonb_array_length(filter -> 'eventTypes') * (24 + octet_length(name))) as bytes
    from subscriptions s,
        jsonb_array_elements(s.filters) as filter,
        jsonb_array_elements(filter -> 'values') as criterion,
        jsonb_array_elements_text(criterion -> 'campaignNames') as name
    group by s.id) as weight
where subscriptions.id = weight.id;
