-- The day by which what is older than the retention was last looked for: one row. A clock that was set wrong must not make a month of history
-- leave at once, so that the next look is by a day that is not much later, whatever the clock says.
create table retention_day (
    one       boolean primary key default true check (one),
    day       date not null,
    moved_at  timestamptz not null default herald_now()
);
