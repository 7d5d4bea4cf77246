-- The daily tables that nothing may need any more: those of days that have been over for longer than $1 days. A table that is no longer a
-- partition, or is on its way out, was left behind by somebody who crashed while removing it; those come first, because a parent lets
-- only one partition leave at a time. Names are compared as text, so that a foreign table's name cannot fail a cast.
select c.relname::text as name, split_part(c.relname::text, '_', 1) as parent,
       case when i.inhrelid is null then 'detached' when i.inhdetachpending then 'detaching' else 'attached' end as state
from pg_class c left join pg_inherits i on i.inhrelid = c.oid
where c.relnamespace = (select relnamespace from pg_class where oid = 'events'::regclass)
  and c.relkind = 'r'
  and c.relname ~ '^(events|attempts)_[0-9]{8}$'
  and right(c.relname::text, 8) < to_char((herald_now() at time zone 'UTC')::date - $1, 'YYYYMMDD')
order by i.inhrelid is not null and not i.inhdetachpending, name
