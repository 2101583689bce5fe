/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The inside of the POSIX layer. preload.c forwards libc's names to the functions below; they return what the
 * libc function would, or a negative errno value; none sets errno.
 *
 * A `lane` is a context with a lock: normally one per thread, shared when there are more threads than
 * contexts. Every offloaded socket has a home lane, where its notifications come; any thread may use it under
 * that lane's lock. Sockets, items and epolls are never given back to the system, so a stale pointer is
 * found out by looking at what it names now, and the fast path counts no references.
 *
 * Locks, in the order they may nest: a lane's (two: the lower index first), an epoll's, the process's.
 */
#ifndef HOST_POSIX_H
#define HOST_POSIX_H

#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "host/attach.h"

#define LANES_MAX FLEXTOE_CONTEXTS_MAX

/* ---- mutex.c: three-state futex lock; free of charge while the process has one thread ---- */

struct mutex {
	atomic_int word;
};
void mutex_lock(struct mutex *m);
void mutex_unlock(struct mutex *m);

/* ---- lane.c ---- */

/* A thread that sleeps until something happens on a lane; fd: an eventfd that wakes it. */
struct waiter {
	struct waiter *next, **link;
	int fd;
};

struct lane {
	struct mutex lock;
	struct flextoe_context *ctx;
	unsigned index;
	unsigned users; /* threads that call it theirs; under the process's lock */
	struct waiter *waiters;
	bool dead;
};

/* The calling thread's lane; NULL when not attached. Opens a context at a thread's first call. */
struct lane *lane_mine(void);
struct lane *lane_at(unsigned index);
/* Takes in what the engine has said. The lane is locked. */
void lane_drain(struct lane *lane);
static inline bool lane_pending(const struct lane *lane)
{
	return context_pending(lane->ctx);
}
/* Locks, drains and unlocks if there is something to drain or to flush. */
void lane_service(struct lane *lane);
/* Wakes everybody who sleeps on the lane. The lane is locked. */
void lane_wake(struct lane *lane);

/* Sleeping on several lanes. */
struct sleeper {
	uint64_t mask; /* of lanes */
	struct waiter waiter[LANES_MAX];
};
/* Announces the sleep; fd: an eventfd that wakes the caller. True: something is there already. */
bool sleeper_begin(struct sleeper *sleeper, uint64_t mask, int fd);
void sleeper_end(struct sleeper *sleeper);
/* Looks at the lanes of the mask for the engine's spin time; true when something came. */
bool sleeper_spin(uint64_t mask, uint64_t deadline_us);
/* What sleeper_poll() sleeps on. */
struct sleep {
	uint64_t mask; /* lanes */
	uint64_t deadline_us;
	const sigset_t *sigmask; /* while asleep; NULL: as it is */
	/* Asked once the sleep is announced: is there, after all, something to do? Takes no lock. */
	bool (*ready)(const void *arg);
	const void *arg;
};
/* Sleeps on the lanes and on extra kernel descriptors: as ppoll() on the latter, and 0 for anything else. */
int sleeper_poll(const struct sleep *sleep, struct pollfd *extra, unsigned extra_count);
/* After -EINTR: every signal that has a handler asks for system calls to be restarted. */
bool signals_restart(void);
/* An earlier deadline for a sleep while there are children to look after. */
uint64_t heirs_deadline(uint64_t deadline_us);
/* The calling thread's own eventfd, or a negative errno value. */
int thread_wake_fd(void);

/* ---- process.c ---- */

enum process_state {
	PROCESS_NEW, /* has not needed the engine yet */
	PROCESS_ATTACHED,
	PROCESS_KERNEL,	 /* no engine: everything goes to the kernel */
	PROCESS_REFUSED, /* no engine, and FLEXTOE_REQUIRE=1 */
};

extern struct process {
	_Atomic(enum process_state) state;
	struct mutex lock; /* everything here, and the pools */
	struct flextoe *ft;
	pid_t pid;
	int placeholder_fd; /* an unconnected kernel socket; descriptors of accepted sockets are copies of it
			     */
	unsigned lane_count;
	struct lane lane[LANES_MAX];
} process;

/* For a look without a lock. */
static inline bool process_attached(void)
{
	return __atomic_load_n(&process.ft, __ATOMIC_ACQUIRE) != NULL;
}

/* Attaches if that has not been tried. */
enum process_state process_attach(void);
/* Follows fork() and exit() from now on. */
void process_hooks(void);
/* The process ends: what is open is closed. */
void process_exit(void);
bool process_is_exiting(void);
/* True in the process that attached; false in a child of vfork(), which must not touch what it shares. */
bool process_is_self(void);
/* The engine serves this address (ours is true when it is one of its own). */
bool process_serves(uint32_t addr);
bool process_owns(uint32_t addr);
uint64_t deadline_after_ms(int64_t ms);
uint64_t deadline_after_us(uint64_t us);
#define DEADLINE_NEVER UINT64_MAX

/* What an application asked for that is not supported, by name; printed at exit with FLEXTOE_DEBUG=1. */
void unsupported(const char *name, long value);
/* Calls print for each. */
void unsupported_each(void (*print)(void *arg, const char *name, long value, unsigned long count), void *arg);

/* ---- heir.c ---- */

/* Before fork(), all locked: a context for the child, if there are connections to inherit. */
void heir_prepare(void);
/* In the child: keeps the inherited connections; false: there are none, start anew. */
bool heir_child(void);
/* In the parent, after fork(). */
void heir_parent(void);
/* In a child that inherited: the one lane it has; else NULL. */
struct lane *heir_own_lane(void);
/* This lane is kept for children. */
bool heir_lane(unsigned index);
/* Takes back what children left that have ended, now and then; true while there are some that live. */
bool heirs_reap(void);
#define HEIR_LOOK_US 100000u /* a parent that sleeps looks after them so often */
/* Another process has the connection too: the caller drops it without a word to the engine. */
bool heir_conn_shared(struct flextoe_conn *conn);
void heir_conn_opened(const struct flextoe_conn *conn);

/* ---- fdtable.c ---- */

enum file_kind {
	FILE_SOCKET = 1,
	FILE_EPOLL,
	FILE_HIDDEN, /* a descriptor of ours that the application does not know of, and must not close */
	FILE_KEPT,   /* a listener that this process was given, and has not used yet: see kept.c */
};
struct file {
	uint8_t kind;	  /* enum file_kind */
	atomic_uint refs; /* descriptors that name it */
};

extern _Atomic(struct file *) *fdtable;
extern int fdtable_size;
extern int fdtable_used; /* descriptors from here on never named a file of ours */

int fdtable_init(void);
static inline struct file *file_of(int fd)
{
	if (unlikely((unsigned)fd >= (unsigned)fdtable_size))
		return NULL;
	return atomic_load_explicit(&fdtable[fd], memory_order_acquire);
}
/* Names a file by a descriptor; takes over one reference. False: the descriptor is beyond the table. */
bool fdtable_set(int fd, struct file *file);
/* A second descriptor for the file, after dup(): what `to` named before is dropped. */
void fdtable_dup(int to, struct file *file);
/* The descriptor is being closed: drops the reference. Call before the kernel's close(). */
void fdtable_close(int fd);
/* The same for a range, as close_range(). */
void fdtable_close_range(unsigned first, unsigned last);
/* The descriptor is hidden from the application from now on; the second closes it. */
void fdtable_hide(int fd);
void fdtable_hidden_close(int fd);
static inline bool fdtable_hidden(int fd)
{
	struct file *file = file_of(fd);

	return unlikely(file != NULL) && file->kind == FILE_HIDDEN;
}
/* In the child of fork(): nothing is ours any more, but listeners to be kept. */
void fdtable_forget(void);

/* ---- socket.c ---- */

enum socket_state {
	SOCKET_FREE = 0,
	SOCKET_UNDECIDED, /* kernel or engine: bind(), listen() or connect() will tell; until then the
			     kernel's */
	SOCKET_KERNEL,	  /* the kernel's for good */
	SOCKET_BOUND,	  /* to an endpoint of the engine */
	SOCKET_LISTENING,
	SOCKET_CONNECTING,
	SOCKET_CONNECTED,
	SOCKET_FAILED, /* connect() failed; the next connect() begins anew */
};

struct socket {
	struct file file;
	uint8_t state; /* enum socket_state */
	uint8_t domain_is_ipv6;
	bool nonblock;
	bool v6only;
	bool any;	   /* bound to any address: the kernel's socket listens too */
	bool kernel_bound; /* the kernel's socket has the same port */
	bool error_told;   /* the connection's error was reported: from now on end of stream and EPIPE */
	bool shut_rd, shut_wr;
	bool inherited; /* by fork(), and not used since: notifications still go to the parent */
	bool shared;	/* a listener that other processes may accept from */
	bool joining;	/* such a one, whose answer is under way */
	bool answered;	/* the synchronous request has its answer */
	bool reuse_addr, reuse_port;
	bool nodelay, cork, keepalive, quickack;
	bool options_set;   /* options of the engine's were changed: it must know before it opens anything */
	bool options_dirty; /* and it does not know yet */
	bool linger_on;
	int linger_s;
	int answer_error;
	int error;	     /* SO_ERROR: of a connect() that failed */
	uint32_t rx_wanted;  /* see SOCKET_RX_WANTED */
	unsigned waiting;    /* threads blocked in it */
	uint32_t generation; /* changes when the struct is used again */
	struct lane *lane;   /* home; changes under both lanes' locks */
	struct flextoe_conn *conn;
	struct flextoe_listener *listener; /* endpoint; NULL while another process's is not joined */
	uint32_t endpoint, token[2];	   /* of a listener: what lets others join; 0: nothing to join */
	int backlog;
	int hold_fd; /* channel that says that this listener is still there; -1: none */
	struct flextoe_conn *accept_head, **accept_tail;
	unsigned accept_count;
	int fd; /* the descriptor it was made with: the kernel's socket while that is open */
	uint64_t rcv_timeout_us, snd_timeout_us; /* 0: none */
	uint32_t sndbuf, rcvbuf;		 /* as asked for; 0: default */
	struct sockaddr_in local;
	int keep_idle_s, keep_interval_s, keep_count, user_timeout_ms, defer_accept_s, maxseg, syncnt,
		linger2_s;
	int tos, ttl, priority, notsent_lowat;
	uint8_t congestion; /* enum flextoe_congestion */
	struct epitem *items;
	struct socket *next; /* in the pool */
};

/* In a process that was given a listener: attaches for it. NULL: there is no engine. */
struct socket *kept_revive(struct socket *s);
static inline struct socket *socket_of(int fd)
{
	struct file *file = file_of(fd);

	if (likely(!file))
		return NULL;
	if (unlikely(file->kind == FILE_KEPT))
		return kept_revive((struct socket *)file);
	return file->kind == FILE_SOCKET ? (struct socket *)file : NULL;
}
/* The same for who must not attach. */
static inline struct socket *socket_here(int fd)
{
	struct file *file = file_of(fd);

	return file && file->kind == FILE_SOCKET ? (struct socket *)file : NULL;
}
/* The engine has (or had) this socket; false: the kernel's descriptor is the thing to use. */
static inline bool socket_offloaded(const struct socket *s)
{
	return __atomic_load_n(&s->state, __ATOMIC_ACQUIRE) >= SOCKET_BOUND;
}
/* The socket behind a descriptor when the engine has it, or NULL. */
static inline struct socket *offloaded_of(int fd)
{
	struct socket *s = socket_of(fd);

	return s && socket_offloaded(s) ? s : NULL;
}

/* Locks the socket's home and returns it; checks that it is still what fd names (fd < 0: no check). NULL:
 * not. */
struct lane *socket_lock(struct socket *s, int fd);
void socket_unlock(struct lane *lane);
/*
 * Sleeps until one of the poll() events is true; *lane is the locked home, and may be another afterwards.
 * 0, -EAGAIN at the deadline, -EINTR, -EBADF when the socket was closed meanwhile.
 */
int socket_wait(struct socket *s, struct lane **lane, unsigned events, uint64_t deadline_us);
/* poll() events that are true now. Any thread, lock or not: what changes later is notified later. */
unsigned socket_events(const struct socket *s);
/* Makes the calling thread's lane the socket's home; *lane is the locked one, and is it afterwards. */
void socket_adopt(struct socket *s, struct lane **lane);
/* The last descriptor is closed. */
void socket_destroy(struct socket *s);
/* Back to the pool. */
void socket_free(struct socket *s);
/* Takes the pending error, if any: negative errno or 0. */
int socket_take_error(struct socket *s);
/* A notification for one of our sockets. The lane is locked. */
void socket_event(struct lane *lane, const struct flextoe_event *event);
void socket_lane_died(struct lane *lane);
/* A fresh one, undecided, with one reference and the given home; NULL when out of memory. */
struct socket *socket_alloc(struct lane *lane);
/* Resets what waits for accept(). The lane is locked. */
void accept_queue_reset(struct socket *s);
/* Posts a request's updates and waits for the answer to it: 0 or its error. *lane as in socket_wait(). */
int socket_answer(struct socket *s, struct lane **lane);
/* For socket_wait(), beside poll()'s events: the answer is there; rx_wanted bytes are. */
#define SOCKET_ANSWERED	 0x10000u
#define SOCKET_RX_WANTED 0x20000u
#define SOCKET_SENT	 0x40000u /* all that was written is acknowledged */

/* ---- kept.c ---- */

/* The socket listens: from now on other processes can have it too. */
void kept_begin(struct socket *s, int fd);
/* Its descriptor is (not) closed at exec, does (not) block. */
void kept_cloexec(struct socket *s, bool on);
void kept_nonblock_changed(struct socket *s, int fd);
/* Before fork(), all locked. */
void kept_prepare(void);
/* In the child, for each socket: keeps a listener, on this lane or for later (NULL). False: it is none. */
bool kept_child(struct socket *s, struct lane *lane);
/* A channel to attach with, over a kept listener's, or a negative errno value. */
int kept_channel(void);
/* Takes a descriptor from another program, if it is a listener of the engine's. same_numbers: after exec().
 */
void kept_adopt(int fd, bool same_numbers);
/* The application has put another file in the place of a hidden descriptor. */
void kept_displaced(int fd);
/* This process has the listener no more; and its memory may go, too, for one that was never used. */
void kept_end(struct socket *s);
void kept_drop(struct socket *s);
void kept_scan(void);
/*
 * Joins if this process has not, and asks for connections if there is none. The lane is locked, and may be
 * another afterwards, or NULL. 0 or a negative errno value.
 */
int listener_ready(struct socket *s, struct lane **lane);
/* The second half; and the opposite: nobody waits for it any more. The lane is locked. */
void listener_ask(struct socket *s);
void listener_ask_no_more(struct socket *s);
/* Is there something to join or to ask for? No lock. */
bool listener_needs(const struct socket *s);
/* listener_ready() if so, from who holds no lock. */
void listener_visit(struct socket *s);

/* ---- endpoint.c ---- */

int posix_socket(int fd, int domain, int type); /* the kernel has made fd */
int posix_bind(struct socket *s, int fd, const struct sockaddr *addr, socklen_t len);
int posix_listen(struct socket *s, int fd, int backlog);
int posix_accept(struct socket *s, int fd, struct sockaddr *addr, socklen_t *len, int flags);
int posix_connect(struct socket *s, int fd, const struct sockaddr *addr, socklen_t len);
int posix_shutdown(struct socket *s, int fd, int how);
int posix_getsockname(struct socket *s, struct sockaddr *addr, socklen_t *len);
int posix_getpeername(struct socket *s, struct sockaddr *addr, socklen_t *len);
/* What the posix_ functions return to say: let the kernel do it. */
#define PASS_TO_KERNEL (-4096)

/* ---- transfer.c ---- */

ssize_t posix_recv(struct socket *s, int fd, const struct iovec *iov, int count, int flags);
ssize_t posix_send(struct socket *s, int fd, const struct iovec *iov, int count, int flags);
ssize_t posix_recvmsg(struct socket *s, int fd, struct msghdr *msg, int flags);
ssize_t posix_sendmsg(struct socket *s, int fd, const struct msghdr *msg, int flags);
int posix_recvmmsg(
	struct socket *s, int fd, struct mmsghdr *vec, unsigned count, int flags, struct timespec *timeout);
int posix_sendmmsg(struct socket *s, int fd, struct mmsghdr *vec, unsigned count, int flags);
ssize_t posix_sendfile(struct socket *s, int fd, int in, off_t *offset, size_t count);

/* ---- sockopt.c ---- */

int posix_getsockopt(struct socket *s, int fd, int level, int name, void *value, socklen_t *len);
int posix_setsockopt(struct socket *s, int fd, int level, int name, const void *value, socklen_t len);
int posix_fcntl(struct socket *s, int fd, int cmd, long arg);
int posix_ioctl(struct socket *s, int fd, unsigned long request, void *arg);
/* ---- options.c ---- */

/* Tells the engine the options of a socket as they are, for its connection or endpoint. The lane is locked.
 */
void options_post(struct socket *s);
/* The same for the CONNECT that follows, or the endpoint that is to listen, if any were changed. */
void options_before_connect(struct socket *s, struct lane *lane);
void options_before_listen(struct socket *s);

/* Passes on what was set before the connection was opened. The lane is locked. */
void sockopt_apply(struct socket *s);

/* ---- epoll.c ---- */

struct epoll;
struct epitem;
static inline struct epoll *epoll_of(int fd)
{
	struct file *file = file_of(fd);

	return file && file->kind == FILE_EPOLL ? (struct epoll *)file : NULL;
}
void posix_epoll_create(int fd);
/* file is what fd names, or NULL for a descriptor of the kernel's. */
int posix_epoll_ctl(struct epoll *ep, int epfd, int op, int fd, struct epoll_event *event);
int posix_epoll_wait(struct epoll *ep, int epfd, struct epoll_event *events, int max, uint64_t deadline_us,
	const sigset_t *sigmask);
void epoll_destroy(struct epoll *ep);
/* In the child of fork(). */
void epoll_forget(struct epoll *ep);
/* Something happened on the socket: its items become ready. The lane is locked. */
void epoll_notify(struct socket *s);
/* The socket is going, became the engine's, has moved between lanes. The lane is locked (both, for the last).
 */
void epoll_socket_gone(struct socket *s);
void epoll_socket_offloaded(struct socket *s);
void epoll_socket_moved(struct socket *s, struct lane *from, struct lane *to);
/* poll() on an epoll descriptor: something of ours is ready. */
bool epoll_ready(struct epoll *ep, uint64_t *lanes);

/* ---- poll.c ---- */

/* True when a descriptor of the set is ours. */
bool poll_is_mixed(const struct pollfd *fds, nfds_t count);
int posix_poll(struct pollfd *fds, nfds_t count, uint64_t deadline_us, const sigset_t *sigmask);
bool select_is_mixed(int count, const fd_set *r, const fd_set *w, const fd_set *e);
int posix_select(int count, fd_set *r, fd_set *w, fd_set *e, uint64_t deadline_us, const sigset_t *sigmask);

#endif
