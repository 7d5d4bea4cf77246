//! Work that everything else waits for, on a thread of its own with connections of its own. On the shared runtime each answer of the database
//! would wait until a worker that is busy with requests looks for it; here the kernel wakes its one reader.

use std::future::Future;
use std::thread;

use sqlx::PgPool;
use tokio::runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Starts work on a new thread. It gets a pool of `connections_max` that is set up as the given one is. The handle ends when the work does,
/// also by a panic; aborting it ends the work where it next waits.
pub fn spawn<Work>(
    name: &'static str,
    like: &PgPool,
    connections_max: u32,
    work: impl FnOnce(PgPool) -> Work + Send + 'static,
) -> JoinHandle<()>
where
    Work: Future<Output = ()>,
{
    let options = like.options().clone().min_connections(0).max_connections(connections_max);
    let database = like.connect_options();
    let (mut done, over) = oneshot::channel::<()>();
    let thread = thread::Builder::new().name(name.to_owned()).spawn(move || {
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a timer and a poller are to be had when the process has them already");
        runtime.block_on(async {
            let pool = options.connect_lazy_with(database.as_ref().clone());
            tokio::select! {
                () = work(pool) => {}
                () = done.closed() => {}
            }
        });
    });
    thread.expect("the operating system gives a process of few threads one more");
    tokio::spawn(async move {
        let _it_is_over = over.await;
    })
}
