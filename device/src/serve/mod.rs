//! `serve`: JSON lines in, answers out, over stdin and stdout or a Unix socket. Each client has a reader and a writer; one
//! thread runs the engine on what waits. Memory is bounded by what may wait, be unsent and be a line; readers wait, nothing
//! is dropped. docs/serve.md is the contract.

mod client;
mod queue;
pub mod settings;
#[allow(unsafe_code)]
mod signals;
mod socket;
mod stats;
mod system;
#[allow(unsafe_code)]
mod systemd;

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::answers::lines::{self, Frame, Object};
use crate::answers::request::{self, Asked, Id, Infer, Model};
use crate::answers::text::Texts;
use crate::answers::{Caller, OUTPUTS, ResponderError, most_tokens};
use crate::block_cache;
use crate::log;

use self::client::{Client, Line, Lines, Patient};
use self::queue::{Limits, Queue, Work};
use self::settings::Settings;
use self::signals::EndSignals;
use self::socket::{Bound, SocketError};
use self::stats::Stats;
use self::system::{Stdin, Stdout};
pub use self::systemd::{PassedError, passed};
use crate::session::{Session, SessionError};

/// How long an ending server goes on answering.
const GRACE: Duration = Duration::from_secs(5);
/// How long the refusals after that may take to send.
const FAREWELL: Duration = Duration::from_secs(1);
/// Stack of a client's threads: they parse, which is bounded in depth, and tokenize.
const STACK: usize = 1 << 20;
/// Memory for answers that is kept from batch to batch.
const KEPT: usize = 64 << 10;
/// How much older a batch makes memory that is kept for reuse: what some thirty in a row did not need is given back.
const AGE: u64 = 16;
/// Files a server has open besides its clients: standard streams, model, sockets, and what it reads of /proc; plenty.
const DESCRIPTORS: u64 = 32;
/// Exit code of a process that could not do what it was asked.
pub const FAILED: u8 = 2;
/// What is answered to requests that come too late.
pub const STOPPING: &str = "the server is stopping";

/// Why a server cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The model cannot be opened or run.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The socket cannot be listened on.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// What systemd passed cannot be served.
    #[error(transparent)]
    Passed(#[from] PassedError),
    /// Two sockets; the one that was named.
    #[error("--socket {0}: this server was handed a socket (LISTEN_FDS); leave --socket out")]
    TwoSockets(String),
    /// Reading stdin failed.
    #[error("stdin: {0}")]
    Input(io::Error),
    /// Writing stdout failed for another reason than a reader that went away.
    #[error("stdout: {0}")]
    Output(io::Error),
    /// A thread or a pipe of the server's own could not be made.
    #[error("cannot start: {0}")]
    Start(io::Error),
    /// The limit on open files is too low for the clients asked for.
    #[error(
        "--clients {clients} needs {needed} open files, this process may have {most}; raise that (ulimit -n, LimitNOFILE=) or take fewer clients"
    )]
    Descriptors {
        /// The value of `--clients`.
        clients: usize,
        /// Open files the server needs for them.
        needed: u64,
        /// Open files the process may have.
        most: u64,
    },
    /// The model's tokenizer cannot be opened, or a request cannot be answered.
    #[error(transparent)]
    Answers(#[from] ResponderError),
}

/// A request that waits for the engine.
struct Job {
    client: Arc<Client>,
    id: Id,
    asked: Infer,
    since: Instant,
}

impl Work for Job {
    fn rows(&self) -> usize {
        self.asked.rows.len()
    }
    fn tokens(&self) -> usize {
        self.asked.longest()
    }
    fn since(&self) -> Instant {
        self.since
    }
    fn wanted(&self) -> bool {
        !self.client.gone()
    }
}

struct Server {
    session: Session,
    model: Model,
    settings: Settings,
    queue: Queue<Job>,
    stats: Stats,
    clients: Mutex<Clients>,
}

#[derive(Default)]
struct Clients {
    live: HashMap<u64, Arc<Client>>,
    /// How many are still being read from.
    readers: usize,
    next: u64,
    stopping: bool,
    /// The socket's name, until nobody is to come any more.
    bound: Option<Bound>,
    listener: Option<Arc<UnixListener>>,
    /// Closing it wakes the reader of stdin, or whoever waits for clients of a socket that was passed.
    wake: Option<UnixStream>,
}

/// Keeps the signals that end a server for it: to be called before any thread is made, since those inherit it.
pub fn hold_signals() {
    EndSignals::hold();
}

/// Serves until stdin ends or a signal says so.
///
/// # Errors
/// Where the server cannot start, a tokenizer does not fit, or stdin, stdout or the socket fails.
pub fn run(session: Session, settings: &Settings) -> Result<(), ServeError> {
    let signals = EndSignals::hold();
    let settings = settings.clone();
    let config = session.engine.config().clone();
    let texts = Texts::open(&session, settings.tokenizer.as_deref(), Caller::Server)?;
    texts.notes.iter().for_each(|note| log::line(note));
    let mut tokens = settings.tokens;
    if config.head.has_decoder() {
        tokens = tokens.min(OUTPUTS / config.vocab_size);
    }
    // A question's choices are not taken apart, so one request may have more than is gathered of several.
    let most = settings.tokens.max(most_tokens(&config));
    let server = Arc::new(Server {
        model: Model {
            config,
            texts,
            tokens: most,
            caller: Caller::Server,
        },
        queue: Queue::new(Limits {
            queue: settings.queue,
            rows: settings.batch,
            tokens,
            linger: settings.linger,
        }),
        stats: Stats::new(),
        clients: Mutex::default(),
        session,
        settings,
    });
    let serving = match (server.settings.socket.clone(), systemd::listener()?) {
        (Some(path), Some(_)) => return Err(ServeError::TwoSockets(path.display().to_string())),
        (Some(path), None) => server.listen(&path)?,
        (None, Some(listener)) => server.passed(listener)?,
        (None, None) => server.standard()?,
    };
    systemd::notify("READY=1");
    let ending = server.clone();
    spawn("signals", move || ending.end_on(&signals)).map_err(ServeError::Start)?;
    server.compute();
    match serving {
        // The thread that waits for signals closed the queue, and ends the process when all is sent.
        None => loop {
            thread::park();
        },
        Some(standard) => standard.join().unwrap_or(Ok(())),
    }
}

fn spawn<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<thread::JoinHandle<T>> {
    thread::Builder::new()
        .name(name.to_string())
        .stack_size(STACK)
        .spawn(work)
}

/// A client's number and itself, or why it is not let in.
type Admitted = Result<(u64, Arc<Client>), String>;

type Standard = thread::JoinHandle<Result<(), ServeError>>;

impl Server {
    /// Counts and a map, whole between any two statements that could panic.
    fn clients(&self) -> MutexGuard<'_, Clients> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs what waits, batch after batch, until the queue is closed and empty.
    fn compute(&self) {
        let engine = &self.session.engine;
        let (mut batch, mut line): (Vec<Job>, Vec<u8>) = (vec![], vec![]);
        while self.queue.take(&mut batch) {
            let input = lines::input(batch.iter().map(|job| &job.asked), self.model.config.head);
            let seq = input.shape.last().copied().unwrap_or(0);
            let rows = input.input_ids.len() / seq.max(1);
            let own: usize = batch
                .iter()
                .flat_map(|job| &job.asked.rows)
                .map(|row| row.ids.len())
                .sum();
            self.stats.batch(rows, own, rows * seq - own);
            let outputs = engine.run(&input);
            if let Err(e) = self.session.unchanged() {
                self.fail(&e);
            }
            let mut first = 0;
            for job in batch.drain(..) {
                line.clear();
                match &outputs {
                    Ok(outputs) => {
                        let place = lines::Place {
                            outputs,
                            declared: engine.outputs(),
                            first,
                            rows,
                            seq,
                        };
                        let frame = Frame {
                            id: Some(&job.id),
                            since: Some(job.since),
                        };
                        lines::write(&mut line, frame, &job.asked, place, &self.model);
                        self.stats.served(lines::milliseconds(job.since));
                    }
                    Err(e) => self.refuse(&mut line, &job.id, &format!("the engine failed: {e}")),
                }
                first += job.asked.rows.len();
                job.client.answer(&line, Some(job.asked.bytes()));
            }
            line.clear();
            line.shrink_to(KEPT);
            // Short sequences allocate nothing large: without this, what long ones needed would be kept for ever.
            crate::HEAP.age(AGE);
        }
    }

    /// Ends the process: no answer of a model that somebody wrote to is right, and none that is due can be had.
    fn fail(&self, problem: &SessionError) -> ! {
        self.clients().bound = None;
        log::line(&problem.to_string());
        std::process::exit(FAILED.into());
    }

    fn refuse(&self, line: &mut Vec<u8>, id: &Id, problem: &str) {
        self.stats.error();
        lines::error(line, id, problem);
    }

    /// Reads a client to its end, or until it has left.
    fn read(&self, client: &Arc<Client>, from: impl Read) -> io::Result<()> {
        let mut lines = Lines::new(from, self.settings.max_line);
        let (mut line, mut large) = (vec![], false);
        let result = loop {
            // What a long line took, in its own bytes and in what was made of it, goes back before the next is waited for.
            if std::mem::take(&mut large) {
                lines.shrink();
                crate::HEAP.release();
                block_cache::trim();
            }
            if !client.may_read() {
                break Ok(());
            }
            line.clear();
            let next = match lines.next() {
                Ok(next) => next,
                Err(e) => break Err(e),
            };
            large = next.bytes() > KEPT as u64;
            match next {
                Line::End => break Ok(()),
                Line::TooLong(bytes) => {
                    let most = self.settings.max_line;
                    let problem = format!("a line of {bytes} bytes, at most {most} are read; --max-line raises it");
                    self.refuse(&mut line, &Id::Null, &problem);
                }
                Line::Text(text) if text.trim_ascii().is_empty() => continue,
                Line::Text(text) => self.request(client, text, &mut line),
            }
            if !line.is_empty() {
                client.answer(&line, None);
            }
        };
        if lines.shrink() > KEPT || large {
            crate::HEAP.release();
            block_cache::trim();
        }
        result
    }

    /// Queues one request, waiting for room, or leaves what can be answered at once in `line`.
    fn request(&self, client: &Arc<Client>, text: &[u8], line: &mut Vec<u8>) {
        let since = Instant::now();
        match request::parse(text, &self.model) {
            (id, Err(problem)) => self.refuse(line, &id, &problem),
            (id, Ok(Asked::Ping)) => self.pong(line, &id),
            (id, Ok(Asked::Stats)) => {
                let clients = self.clients().live.len();
                self.stats.write(line, &id, self.queue.len(), clients);
            }
            (id, Ok(Asked::Infer(asked))) => {
                client.owe(asked.bytes());
                let client = client.clone();
                let job = Job {
                    client,
                    id,
                    asked,
                    since,
                };
                if let Err(job) = self.queue.push(job) {
                    self.decline(&job);
                }
            }
        }
    }

    /// Answers a request that will not be computed any more.
    fn decline(&self, job: &Job) {
        let mut line = vec![];
        self.refuse(&mut line, &job.id, STOPPING);
        job.client.answer(&line, Some(job.asked.bytes()));
    }

    fn pong(&self, line: &mut Vec<u8>, id: &Id) {
        let Model {
            config, texts, tokens, ..
        } = &self.model;
        let mut json = Object::begin(line, id);
        json.key("", "op");
        json.value("ping");
        json.key("", "ok");
        json.value(&true);
        json.key("", "model");
        json.value(&self.session.model().file);
        json.key("", "head");
        json.value(config.head.name());
        json.key("", "positions");
        json.value(&config.max_position_embeddings);
        json.key("", "vocabulary");
        json.value(&config.vocab_size);
        json.key("", "tokens");
        json.value(tokens);
        json.key("", "text");
        json.value(&texts.known());
        json.end();
    }

    /// Takes a client in, or says why the server takes no more.
    fn admit(&self, client: Client) -> Admitted {
        self.admit_to(&mut self.clients(), client)
    }

    fn admit_to(&self, clients: &mut Clients, client: Client) -> Admitted {
        if clients.stopping {
            return Err(STOPPING.to_string());
        }
        if clients.live.len() >= self.settings.clients {
            let most = self.settings.clients;
            return Err(format!(
                "{most} clients are connected, this server takes no more; --clients raises it"
            ));
        }
        let (number, client) = (clients.next, Arc::new(client));
        clients.next += 1;
        clients.readers += 1;
        clients.live.insert(number, client.clone());
        Ok((number, client))
    }

    /// A client's reader is done.
    fn ended(&self, client: &Client) {
        client.end();
        self.clients().readers -= 1;
    }

    /// Serves stdin and stdout; the handle gives how writing ended.
    fn standard(self: &Arc<Server>) -> Result<Option<Standard>, ServeError> {
        let (wake, woken) = UnixStream::pair().map_err(ServeError::Start)?;
        self.clients().wake = Some(wake);
        let (_, client) = self
            .admit(Client::new(None, self.settings.max_unsent))
            .map_err(|e| ServeError::Start(io::Error::other(e)))?;
        let (server, reading) = (self.clone(), client.clone());
        let reader = move || {
            let result = server.read(&reading, Stdin::new(woken));
            // What waits is still computed.
            server.queue.close();
            server.ended(&reading);
            result.map_err(ServeError::Input)
        };
        let reader = spawn("stdin", reader).map_err(ServeError::Start)?;
        let server = self.clone();
        let writer = move || match client.write_to(&mut Stdout::new()) {
            // It returns when the reader is done, whose error is then the one to tell.
            Ok(()) => reader.join().unwrap_or(Ok(())),
            Err(e) => {
                server.queue.abandon();
                match e.kind() {
                    // Whoever read the answers has seen enough.
                    io::ErrorKind::BrokenPipe => Ok(()),
                    _ => Err(ServeError::Output(e)),
                }
            }
        };
        spawn("stdout", writer).map(Some).map_err(ServeError::Start)
    }

    /// Room for the descriptors of all clients.
    fn room(&self) -> Result<(), ServeError> {
        let clients = self.settings.clients;
        let needed = clients as u64 + DESCRIPTORS;
        match system::allow_descriptors(needed) {
            most if most < needed => Err(ServeError::Descriptors { clients, needed, most }),
            _ => Ok(()),
        }
    }

    /// Serves a socket that systemd keeps: clients that this server does not let in any more wait there for the next one.
    fn passed(self: &Arc<Server>, listener: UnixListener) -> Result<Option<Standard>, ServeError> {
        self.room()?;
        let (wake, woken) = UnixStream::pair().map_err(ServeError::Start)?;
        self.clients().wake = Some(wake);
        let server = self.clone();
        let accept = move || {
            loop {
                match system::readable(&listener, &woken) {
                    Ok(true) => {}
                    Ok(false) => return,
                    Err(_) => thread::sleep(Duration::from_millis(100)),
                }
                // Who is accepted is let in: between the two the server must not begin to stop.
                let mut clients = server.clients();
                if clients.stopping {
                    return;
                }
                let Ok((stream, _)) = listener.accept() else {
                    // Out of descriptors, most likely: they come back when a client leaves.
                    drop(clients);
                    thread::sleep(Duration::from_millis(100));
                    continue;
                };
                let stream = Arc::new(stream);
                let client = Client::new(Some(stream.clone()), server.settings.max_unsent);
                let admitted = server.admit_to(&mut clients, client);
                drop(clients);
                server.attend(stream, admitted);
            }
        };
        spawn("listen", accept).map_err(ServeError::Start)?;
        log::line(&format!(
            "serving {} at the socket that was passed",
            self.session.model().file
        ));
        Ok(None)
    }

    /// Listens on a socket.
    fn listen(self: &Arc<Server>, path: &Path) -> Result<Option<Standard>, ServeError> {
        self.room()?;
        let (listener, bound) = socket::bind(path, self.settings.mode)?;
        let listener = Arc::new(listener);
        {
            let mut clients = self.clients();
            (clients.bound, clients.listener) = (Some(bound), Some(listener.clone()));
        }
        let server = self.clone();
        spawn("listen", move || server.accept(&listener)).map_err(ServeError::Start)?;
        let model = self.session.model().file;
        log::line(&format!("serving {model} at {}", path.display()));
        Ok(None)
    }

    fn accept(self: &Arc<Server>, listener: &UnixListener) {
        loop {
            match listener.accept() {
                Ok((stream, _)) => self.connect(stream),
                // Out of descriptors, most likely: they come back when a client leaves.
                Err(_) => thread::sleep(Duration::from_millis(100)),
            }
        }
    }

    fn connect(self: &Arc<Server>, stream: UnixStream) {
        // Reader, writer and whoever ends them share one descriptor.
        let stream = Arc::new(stream);
        let admitted = self.admit(Client::new(Some(stream.clone()), self.settings.max_unsent));
        self.attend(stream, admitted);
    }

    /// Reads from a client that was let in and writes to it, or tells it why it was not.
    fn attend(self: &Arc<Server>, stream: Arc<UnixStream>, admitted: Admitted) {
        let refuse = |problem: &str| {
            let mut line = vec![];
            self.refuse(&mut line, &Id::Null, problem);
            // It fits in the socket's buffer, or the client is not there.
            let _ = stream.set_nonblocking(true).and_then(|()| (&*stream).write_all(&line));
        };
        let (number, client) = match admitted {
            Ok(admitted) => admitted,
            Err(problem) => return refuse(&problem),
        };
        let (server, reader_client, reading) = (self.clone(), client.clone(), stream.clone());
        let reader = move || {
            // A failing read is a client that left.
            let left = server.read(&reader_client, &*reading).is_err() || system::hung_up(&reading);
            if left {
                reader_client.leave();
            }
            server.ended(&reader_client);
        };
        let (server, writer_client) = (self.clone(), client.clone());
        let writer = move || {
            let sent = writer_client.write_to(&mut Patient::new(&stream, server.settings.timeout));
            if sent.is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock) {
                server.stats.dropped();
            }
            // Whichever way it ended, nothing more is read.
            writer_client.leave();
            server.clients().live.remove(&number);
        };
        let started = spawn("reader", reader);
        if started.is_err() {
            self.ended(&client);
        }
        if started.and_then(|_| spawn("writer", writer)).is_err() {
            client.leave();
            self.clients().live.remove(&number);
        }
    }

    /// Waits for a signal, then ends the process once everything taken on is answered, or time is up.
    fn end_on(self: &Arc<Server>, signals: &EndSignals) {
        signals.wait();
        systemd::notify("STOPPING=1");
        let deadline = Instant::now() + GRACE;
        {
            let mut clients = self.clients();
            clients.stopping = true;
            // Nobody new comes, and the reader of stdin wakes.
            (clients.bound, clients.wake) = (None, None);
            clients.live.values().for_each(|client| client.stop_reading());
        }
        if !self.settle(deadline, true) {
            for job in self.queue.abandon() {
                self.decline(&job);
            }
            self.settle(Instant::now() + FAREWELL, false);
        }
        // Those that connected and were not yet let in are told, too. The other thread that accepts may take some of them.
        let listener = self.clients().listener.take();
        if let Some(listener) = listener.filter(|l| l.set_nonblocking(true).is_ok()) {
            while let Ok((stream, _)) = listener.accept() {
                self.connect(stream);
            }
        }
        std::process::exit(0);
    }

    /// Waits until all clients have all their answers; whether that was before the deadline.
    fn settle(&self, deadline: Instant, readers_too: bool) -> bool {
        loop {
            let clients = self.clients();
            let reading = readers_too && clients.readers > 0;
            if !reading && clients.live.values().all(|client| client.settled()) {
                return true;
            }
            drop(clients);
            if Instant::now() >= deadline {
                return false;
            }
            thread::sleep(Duration::from_millis(2));
        }
    }
}
