-- What was asked of a session, and its token, apart from how the session stands: ending one writes its whole row anew, and nothing of this ever
-- changes but the token's seal. Rows that stand alone are small, and a page has room for the one change that each of them sees.
-- Nobody opens one meanwhile, whose content would be left behind.
lock table redirect_sessions in access exclusive mode;
create table redirect_session_contents (
    partner_id      uuid not null,
    id              uuid not null,
    content         bytea not null check (length(content) <= 65536),
    content_digest  bytea not null check (length(content_digest) = 32),
    token           bytea not null check (length(token) <= 512),
    primary key (partner_id, id)
);
insert into redirect_session_contents (partner_id, id, content, content_digest, token)
select partner_id, id, content, content_digest, token from redirect_sessions;
alter table redirect_sessions drop column content, drop column content_digest, drop column token;
alter table redirect_sessions set (fillfactor = 50);
