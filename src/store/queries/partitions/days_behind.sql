-- Moves the kept day to today, if that is two days away at most; else by one day towards it, if it has not moved within the hour. Both ways: a
-- clock that was wrong for a while must not leave the kept day far from where it belongs.
insert into retention_day as last (day) values ((herald_now() at time zone 'UTC')::date)
on conflict (one) do update set (day, moved_at) = (
    select case
               when abs(excluded.day - last.day) <= 2 then excluded.day
               when herald_now() between last.moved_at - interval '1 hour' and last.moved_at + interval '1 hour' then last.day
               else last.day + sign(excluded.day - last.day)::integer
           end,
           case
               when abs(excluded.day - last.day) > 2
                   and herald_now() between last.moved_at - interval '1 hour' and last.moved_at + interval '1 hour' then last.moved_at
               else herald_now()
           end)
returning greatest(0, (herald_now() at time zone 'UTC')::date - last.day)
