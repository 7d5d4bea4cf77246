//! Sends many finished deliveries again, for partners who asked for it: counts them first, then puts them into the queue oldest first and a little
//! at a time, so that what happens now finds its place among them. Any number of nodes may do it at once: each step is one transaction,
//! which locks its replay.

use std::time::{Duration, Instant};

use sqlx::{PgConnection, PgPool};
use tokio::sync::watch;

use super::{backlog_watch, stopped};
use crate::domain::Error;
use crate::domain::replay::ReplayState;
use crate::hub::handoff::Bells;
use crate::store::queue;
use crate::store::replays::{self, Looked, Replay, Step};
use crate::store::sessions::in_time;
use crate::telemetry::Pulse;

/// The longest sleep: replays that another node was asked for, or left behind, are found by looking.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// While another node takes the step that is due.
const LOOK_SOON: Duration = Duration::from_millis(200);
/// Attempts that a step looks at, at most.
const LOOKED_AT_MAX: i64 = 10_000;
/// Deliveries that a step puts into the queue at most.
const QUEUED_MAX: i64 = 500;
/// For each that was put there, until the next step: as far apart as they fall due.
const APART: Duration = Duration::from_millis(2);
/// While the backlog has reached half of its bound: publishers need the rest.
const GIVE_WAY_FOR: Duration = Duration::from_secs(5);
/// After a step that failed, so that others have their turn.
const AGAIN_AFTER: Duration = Duration::from_secs(10);

/// `backlog_max` is the bound beyond which nothing is published.
pub async fn run(
    pool: PgPool,
    backlog_max: i64,
    bells: Bells,
    pulse: Pulse,
    mut stop: watch::Receiver<bool>,
) {
    let mut way = Way { backlog_max, looked: None };
    loop {
        let sleep = match go_on(&pool, &mut way, &bells, &stop).await {
            Ok(sleep) => {
                pulse.well();
                sleep
            }
            Err(error) => {
                pulse.failed(&error, "replays cannot go on now");
                LOOK_EVERY
            }
        };
        tokio::select! {
            () = stopped(&mut stop) => return,
            () = bells.replay.notified() => {}
            () = tokio::time::sleep(sleep) => {}
        }
    }
}

/// Takes all steps that are due. Returns when to look again.
async fn go_on(
    pool: &PgPool,
    way: &mut Way,
    bells: &Bells,
    stop: &watch::Receiver<bool>,
) -> Result<Duration, Error> {
    while !*stop.borrow() {
        match in_time(async { replays::next_due_in(&mut *pool.acquire().await?).await }).await? {
            None => return Ok(LOOK_EVERY),
            Some(wait) if !wait.is_zero() => return Ok(wait.min(LOOK_EVERY)),
            Some(_due) => {}
        }
        let is_free = way.is_free(pool).await?;
        match in_time(step(pool, is_free)).await? {
            None => return Ok(LOOK_SOON),
            Some(0) => {}
            Some(_queued) => bells.ring_here(),
        }
    }
    Ok(LOOK_EVERY)
}

/// Whether there is room in the queue for what is sent again.
struct Way {
    backlog_max: i64,
    /// When that was last looked at, and what was seen: to count a long queue takes a while.
    looked: Option<(Instant, bool)>,
}

impl Way {
    async fn is_free(&mut self, pool: &PgPool) -> Result<bool, Error> {
        if let Some((at, seen)) = self.looked
            && at.elapsed() < GIVE_WAY_FOR
        {
            return Ok(seen);
        }
        let half = (self.backlog_max / 2).max(1);
        let is_free =
            !in_time(async { backlog_watch::is_full(&mut *pool.acquire().await?, half).await }).await?;
        self.looked = Some((Instant::now(), is_free));
        Ok(is_free)
    }
}

/// Takes the next step of any replay that is due, or puts it off. Returns how many deliveries that put into the queue; `None` when there is none.
async fn step(pool: &PgPool, way_is_free: bool) -> Result<Option<i64>, Error> {
    let mut transaction = pool.begin().await?;
    let Some(replay) = replays::take(&mut transaction).await? else { return Ok(None) };
    let (partner, id) = (replay.partner, replay.id);
    match go_one_step(&mut transaction, &replay, way_is_free).await {
        Ok(step) => {
            transaction.commit().await?;
            if let Some(step) = &step {
                tell_of_end(&replay, step);
            }
            Ok(Some(step.map_or(0, |step| step.queued)))
        }
        // What failed once may fail again, and others wait behind it.
        Err(error) => {
            drop(transaction);
            tracing::warn!(%partner, replay = %id, error = %error.chain(), "a step of a replay failed; it is put off");
            replays::put_off(&mut *pool.acquire().await?, (partner, id), AGAIN_AFTER).await?;
            Ok(Some(0))
        }
    }
}

/// `None` when it was put off.
async fn go_one_step(
    db: &mut PgConnection,
    replay: &Replay,
    way_is_free: bool,
) -> Result<Option<Step>, Error> {
    let step = if replay.state == ReplayState::Counting {
        count(db, replay).await?
    } else if way_is_free {
        queue(db, replay).await?
    } else {
        replays::put_off(db, (replay.partner, replay.id), GIVE_WAY_FOR).await?;
        return Ok(None);
    };
    replays::note(db, replay, step).await?;
    Ok(Some(step))
}

async fn count(db: &mut PgConnection, replay: &Replay) -> Result<Step, Error> {
    let Looked { fit, rest } = replays::look(db, replay, LOOKED_AT_MAX, LOOKED_AT_MAX).await?;
    let state = match (rest, replay.dry_run) {
        (Some(_), _) => ReplayState::Counting,
        (None, true) => ReplayState::Done,
        (None, false) => ReplayState::Queueing,
    };
    let matched = i64::try_from(fit.len()).map_err(Error::internal)?;
    Ok(Step { matched, queued: 0, skipped: 0, state, reached: rest, wait: Duration::ZERO })
}

async fn queue(db: &mut PgConnection, replay: &Replay) -> Result<Step, Error> {
    let Looked { fit, rest } = replays::look(db, replay, QUEUED_MAX, LOOKED_AT_MAX).await?;
    let queued = queue::insert_again(db, replay.partner, &fit).await?;
    let wait = APART * u32::try_from(queued).map_err(Error::internal)?;
    let queued = i64::try_from(queued).map_err(Error::internal)?;
    Ok(Step {
        matched: 0,
        queued,
        skipped: i64::try_from(fit.len()).map_err(Error::internal)? - queued,
        state: if rest.is_some() { ReplayState::Queueing } else { ReplayState::Done },
        reached: rest,
        wait,
    })
}

fn tell_of_end(replay: &Replay, step: &Step) {
    if step.state == ReplayState::Done {
        let (queued, skipped) = (replay.queued + step.queued, replay.skipped + step.skipped);
        let matched = replay.matched + step.matched;
        tracing::info!(partner = %replay.partner, replay = %replay.id, dry_run = replay.dry_run, matched, queued, skipped, "a replay is done");
    }
}
