/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The control channel: a SOCK_SEQPACKET UNIX socket, one message a packet (include/flextoe/abi.h).
 * Applications register and get their region and contexts over it, tools ask for reports. Nothing here waits
 * for a peer: what does not fit into a socket's buffer is continued when it does, and meanwhile that peer is
 * not read. A socket that hangs up is an application that has exited. Messages are copied out before they are
 * looked at, and their length, version and type are checked. A channel that has said HOLD keeps a listener
 * alive instead: it goes with the listener's descriptor from process to process. Control plane's thread.
 */
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "control/state.h"

#define EVENTS_BATCH   32
#define MESSAGES_BATCH 16u /* of one client in one round */
#define TEXT_MAX       (FLEXTOE_MSG_MAX - sizeof(struct flextoe_msg_header))

/* A socket left behind by an engine that is gone may be replaced; one that answers may not. */
static int stale_remove(const struct sockaddr_un *addr)
{
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), r;
	struct stat st;

	if (fd < 0)
		return -errno;
	r = connect(fd, (const void *)addr, sizeof(*addr)) < 0 ? -errno : -EADDRINUSE;
	close(fd);
	if (r == -ENOENT)
		return 0;
	if (r != -ECONNREFUSED)
		return r == -EAGAIN ? -EADDRINUSE : r;
	if (lstat(addr->sun_path, &st) < 0 || !S_ISSOCK(st.st_mode))
		return -EEXIST;
	return unlink(addr->sun_path) < 0 ? -errno : 0;
}

int channel_init(struct control *ctl, char err[256])
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	struct epoll_event ev = {.events = EPOLLIN, .data.ptr = NULL};
	const char *path = ctl->config.socket_path;
	mode_t old;
	int r;

	if (strlen(path) >= sizeof(addr.sun_path)) {
		snprintf(err, 256, "socket path is longer than %zu characters", sizeof(addr.sun_path) - 1);
		return -ENAMETOOLONG;
	}
	strcpy(addr.sun_path, path);
	r = stale_remove(&addr);
	if (r < 0) {
		snprintf(err, 256, "socket %.150s: %s%s", path, strerror(-r),
			r == -EADDRINUSE ? " (is another flextoed running?)" : "");
		return r;
	}
	ctl->listen_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	ctl->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (ctl->listen_fd < 0 || ctl->epoll_fd < 0)
		goto fail;
	ctl->spare_fd = fcntl(ctl->epoll_fd, F_DUPFD_CLOEXEC, 0);
	if (ctl->spare_fd < 0)
		goto fail;
	old = umask(0777); /* nobody gets in before the permissions are set */
	r = bind(ctl->listen_fd, (const void *)&addr, sizeof(addr));
	umask(old);
	if (r < 0 || chmod(path, ctl->config.socket_mode) < 0 || listen(ctl->listen_fd, 128) < 0 ||
		epoll_ctl(ctl->epoll_fd, EPOLL_CTL_ADD, ctl->listen_fd, &ev) < 0)
		goto fail;
	return 0;
fail:
	r = -errno;
	snprintf(err, 256, "socket %.150s: %s", path, strerror(-r));
	if (ctl->listen_fd >= 0)
		close(ctl->listen_fd);
	ctl->listen_fd = -1; /* not ours to unlink */
	return r;
}

/* The listener is no longer held by it, and ends if it was the last. */
static void hold_end(struct control *ctl, struct client *client)
{
	struct endpoint *ep = client->hold ? endpoint_find(ctl, client->hold) : NULL;

	client->hold = 0;
	if (ep)
		ep->holds--;
}

void channel_holds_look(struct control *ctl, uint32_t name)
{
	char c;

	for (struct client *client = ctl->clients; client; client = client->next)
		if (client->hold == name && recv(client->fd, &c, 1, MSG_DONTWAIT | MSG_PEEK) == 0)
			hold_end(ctl, client); /* its own event closes it */
}

/* In the order of use: the client may be named by its application. */
static void client_close(struct control *ctl, struct client *client)
{
	struct client **link = &ctl->clients;
	struct endpoint *ep = client->hold ? endpoint_find(ctl, client->hold) : NULL;

	hold_end(ctl, client);
	if (ep)
		endpoint_settle(ctl, listener_index(ctl, ep));
	if (client->app != INDEX_NONE) {
		struct app *app = &ctl->apps[client->app];

		control_log(ctl, "application %s (pid %u) is gone with %u connections", app->name, app->pid,
			app->conn_count);
		app_close(ctl, app, false);
	}
	while (*link != client)
		link = &(*link)->next;
	*link = client->next;
	ctl->clients_count--;
	close(client->fd);
	report_end(client->report);
	free(client->text);
	free(client);
}

void channel_free(struct control *ctl)
{
	while (ctl->clients)
		client_close(ctl, ctl->clients);
	if (ctl->listen_fd >= 0) {
		unlink(ctl->config.socket_path);
		close(ctl->listen_fd);
	}
	if (ctl->epoll_fd >= 0)
		close(ctl->epoll_fd);
	if (ctl->spare_fd >= 0)
		close(ctl->spare_fd);
	ctl->listen_fd = ctl->epoll_fd = ctl->spare_fd = -1;
}

/* No descriptor is left. A client that nobody took would keep the listening socket readable, and us awake. */
static void client_turn_away(struct control *ctl)
{
	int fd;

	COUNT(ctl, app_refused);
	if (ctl->spare_fd < 0)
		return;
	close(ctl->spare_fd);
	fd = accept4(ctl->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd >= 0)
		close(fd);
	ctl->spare_fd = fcntl(ctl->epoll_fd, F_DUPFD_CLOEXEC, 0);
}

/* Makes the socket, whose other end is a peer's, a client. entered: see on_enter(). */
static bool client_add(struct control *ctl, int fd, bool entered)
{
	struct ucred cred = {0};
	socklen_t len = sizeof(cred);
	struct epoll_event ev = {.events = EPOLLIN};
	struct client *client;

	client = ctl->clients_count < CLIENTS_MAX ? calloc(1, sizeof(*client)) : NULL;
	ev.data.ptr = client;
	if (!client || getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0 ||
		epoll_ctl(ctl->epoll_fd, EPOLL_CTL_ADD, fd, &ev) < 0) {
		COUNT(ctl, app_refused);
		free(client);
		close(fd);
		return false;
	}
	client->fd = fd;
	client->app = INDEX_NONE;
	client->entered = entered;
	client->pid = entered ? 0 : (uint32_t)cred.pid;
	client->uid = entered ? UINT32_MAX : cred.uid; /* nobody's, until it says something */
	client->next = ctl->clients;
	ctl->clients = client;
	ctl->clients_count++;
	return true;
}

static void client_accept(struct control *ctl)
{
	int fd = accept4(ctl->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd >= 0)
		client_add(ctl, fd, false);
	else if (errno == EMFILE || errno == ENFILE)
		client_turn_away(ctl);
}

/* Sends a message with up to two descriptors. False: the peer does not read, or is gone. */
static bool client_send(struct client *client, const void *msg, size_t len, const int *fds, unsigned fd_count)
{
	union {
		char bytes[CMSG_SPACE(2 * sizeof(int))];
		struct cmsghdr align;
	} control = {0};
	struct iovec iov = {.iov_base = (void *)msg, .iov_len = len};
	struct msghdr mh = {.msg_iov = &iov, .msg_iovlen = 1};

	if (fd_count) {
		struct cmsghdr *cmsg;

		mh.msg_control = control.bytes;
		mh.msg_controllen = CMSG_SPACE(fd_count * sizeof(int));
		cmsg = CMSG_FIRSTHDR(&mh);
		cmsg->cmsg_level = SOL_SOCKET;
		cmsg->cmsg_type = SCM_RIGHTS;
		cmsg->cmsg_len = CMSG_LEN(fd_count * sizeof(int));
		memcpy(CMSG_DATA(cmsg), fds, fd_count * sizeof(int));
	}
	return sendmsg(client->fd, &mh, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)len;
}

static struct flextoe_msg_header header_of(uint16_t type, size_t len, int error)
{
	return (struct flextoe_msg_header){.version = FLEXTOE_ABI_VERSION,
		.type = type,
		.error = (uint16_t)error,
		.length = (uint32_t)len};
}

static bool client_refuse(struct client *client, int error, const char *text)
{
	struct flextoe_msg_error msg = {.header = header_of(FLEXTOE_MSG_ERROR, sizeof(msg), error)};

	snprintf(msg.text, sizeof(msg.text), "%s", text);
	return client_send(client, &msg, sizeof(msg), NULL, 0);
}

static void welcome_fill(const struct control *ctl, const struct app *app, struct flextoe_msg_welcome *msg)
{
	const struct control_config *c = &ctl->config;

	memset(msg, 0, sizeof(*msg));
	msg->header = header_of(FLEXTOE_MSG_WELCOME, sizeof(*msg), 0);
	msg->region_size = app->region_size;
	msg->contexts_max = FLEXTOE_CONTEXTS_MAX;
	msg->conns_max = ctl->conns_max;
	msg->spin_us = c->spin_us;
	msg->rx_shift = c->rx_shift;
	msg->tx_shift = c->tx_shift;
	msg->all_routes = c->all_routes;
	msg->congestion = c->congestion;
	for (uint32_t i = 0; i < c->address_count && i < FLEXTOE_ADDRESSES_MAX; i++) {
		msg->address[i].addr = c->address[i].addr;
		msg->address[i].prefix_len = c->address[i].prefix_len;
		msg->address_count++;
	}
}

static bool on_hello(struct control *ctl, struct client *client, const struct flextoe_msg_hello *hello)
{
	struct flextoe_msg_welcome msg;
	char name[sizeof(hello->name)];
	struct app *app;
	int r;

	if (client->app != INDEX_NONE || client->hold)
		return client_refuse(client, EALREADY, "this process has registered already");
	memcpy(name, hello->name, sizeof(name));
	name[sizeof(name) - 1] = 0;
	for (char *p = name; *p; p++) /* it goes into reports */
		if ((unsigned char)*p < ' ' || (unsigned char)*p >= 0x7f || *p == '"' || *p == '\\')
			*p = '?';
	r = app_create(ctl, name[0] ? name : "?", client->pid, client->uid, true, &app);
	if (r < 0) {
		COUNT(ctl, app_refused);
		control_log(ctl, "application %s (pid %u) refused: %s", name, client->pid, strerror(-r));
		return client_refuse(client, -r,
			r == -ENOSPC ? "the engine serves as many applications as it can; raise apps_max"
				     : "the engine has no memory for another application");
	}
	client->app = app->number;
	app->client = client;
	control_log(ctl, "application %s (pid %u, uid %u) has registered", app->name, app->pid, app->uid);
	welcome_fill(ctl, app, &msg);
	return client_send(client, &msg, sizeof(msg), &app->region_fd, 1);
}

static bool on_context(struct control *ctl, struct client *client)
{
	struct flextoe_msg_context msg = {.header = header_of(FLEXTOE_MSG_CONTEXT, sizeof(msg), 0)};
	struct app *app;
	int fds[2], r;

	if (client->app == INDEX_NONE)
		return false;
	app = &ctl->apps[client->app];
	r = app_context_add(ctl, app, &msg.number);
	if (r < 0) {
		COUNT(ctl, app_refused);
		return client_refuse(
			client, -r, "no context is left; raise contexts_max, or use fewer threads");
	}
	fds[0] = ctl->contexts[app->contexts[msg.number]].wake_fd;
	fds[1] = ctl->config.doorbell_fd;
	return client_send(client, &msg, sizeof(msg), fds, 2);
}

/* Whoever has the descriptor of a listener has its token; the token is the permission. */
static bool on_hold(struct control *ctl, struct client *client, const struct flextoe_msg_hold *hold)
{
	struct flextoe_msg_hold msg = {.header = header_of(FLEXTOE_MSG_HOLD, sizeof(msg), 0)};
	struct endpoint *ep = endpoint_find(ctl, hold->endpoint);

	if (client->app != INDEX_NONE || client->hold)
		return client_refuse(client, EALREADY, "this channel has a use already");
	if (!ep || ep->token[0] != hold->token[0] || ep->token[1] != hold->token[1])
		return client_refuse(client, ENOENT, "there is no such listener");
	client->hold = hold->endpoint;
	ep->holds++;
	msg.endpoint = hold->endpoint;
	return client_send(client, &msg, sizeof(msg), NULL, 0);
}

/*
 * A process that has a listener but may not open our socket, since it has given up its rights, comes in over
 * the listener's channel: it gets a channel of its own. Several may ask at once; it does not matter who gets
 * which. Who it is, the kernel tells with every message (SCM_CREDENTIALS).
 */
static bool on_enter(struct control *ctl, struct client *client)
{
	struct flextoe_msg_header msg = header_of(FLEXTOE_MSG_ENTER, sizeof(msg), 0);
	const int on = 1;
	int fds[2], flags;

	if (!client->hold)
		return client_refuse(client, EPERM, "this channel holds no listener");
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) < 0)
		return client_refuse(client, errno, "the engine has no descriptor left");
	flags = fcntl(fds[0], F_GETFL);
	if (flags < 0 || fcntl(fds[0], F_SETFL, flags | O_NONBLOCK) < 0 ||
		setsockopt(fds[0], SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)) < 0) {
		close(fds[0]);
		close(fds[1]);
		return client_refuse(client, EIO, "no channel could be made");
	}
	/* Should this fail, the pair's other end is closed, and the new client with it. */
	if (client_add(ctl, fds[0], true))
		client_send(client, &msg, sizeof(msg), &fds[1], 1);
	close(fds[1]);
	return true;
}

static uint32_t state_number(unsigned phase)
{
	static const uint8_t numbers[] = {
		[TCP_PHASE_CLOSED] = TCP_CLOSE,
		[TCP_PHASE_ESTABLISHED] = TCP_ESTABLISHED,
		[TCP_PHASE_FIN_WAIT_1] = TCP_FIN_WAIT1,
		[TCP_PHASE_FIN_WAIT_2] = TCP_FIN_WAIT2,
		[TCP_PHASE_CLOSE_WAIT] = TCP_CLOSE_WAIT,
		[TCP_PHASE_CLOSING] = TCP_CLOSING,
		[TCP_PHASE_LAST_ACK] = TCP_LAST_ACK,
		[TCP_PHASE_TIME_WAIT] = TCP_TIME_WAIT,
	};

	return phase < ARRAY_SIZE(numbers) ? numbers[phase] : TCP_CLOSE;
}

static bool on_conn_info(
	struct control *ctl, struct client *client, const struct flextoe_msg_conn_info *request)
{
	uint32_t index = flextoe_conn_index(request->conn);
	struct flextoe_msg_conn_info msg = {
		.header = header_of(FLEXTOE_MSG_CONN_INFO, sizeof(msg), ENOENT), .conn = request->conn};
	const struct conn *conn;

	if (client->app != INDEX_NONE && index < ctl->conns_high && ctl->conns[index].flags & CTLCONN_USED &&
		ctl->conns[index].app == client->app &&
		datapath_conn(ctl->dp, index)->id.handle == request->conn) {
		conn = datapath_conn(ctl->dp, index);
		msg.header.error = 0;
		msg.state = state_number(conn->tcp.phase);
		msg.srtt_us = conn->tcp.srtt_us / 8u;
		msg.rttvar_us = conn->tcp.rttvar_us / 4u;
		msg.rto_us = conn->tcp.rto_us;
		msg.cwnd_bytes = conn->tcp.cwnd;
		msg.ssthresh_bytes = conn->tcp.ssthresh;
		msg.snd_wnd_bytes = conn->tcp.snd_wnd;
		msg.rcv_wnd_bytes = conn->tcp.rcv_adv - conn->tcp.rcv_nxt;
		msg.mss = conn->tcp.mss;
		msg.unacked_bytes = conn->tcp.snd_max - conn->tcp.snd_una;
		msg.retransmits = conn->host.retransmits;
		msg.congestion = congestion_of(ctl, &ctl->conns[index].options);
		msg.ecn = (conn->tcp.flags & TCPF_ECN) != 0;
		msg.bytes_received = conn->host.bytes_received;
		msg.bytes_acked = conn->host.bytes_acked;
	}
	return client_send(client, &msg, sizeof(msg), NULL, 0);
}

static void client_listen_for(struct control *ctl, struct client *client, uint32_t events)
{
	struct epoll_event ev = {.events = events, .data.ptr = client};

	epoll_ctl(ctl->epoll_fd, EPOLL_CTL_MOD, client->fd, &ev);
}

/*
 * Goes on with a report: at most one piece of it is made in a round, so that a long one does not hold the
 * engine up. False: the peer is gone.
 */
static bool report_continue(struct control *ctl, struct client *client)
{
	struct {
		struct flextoe_msg_header header;
		char text[TEXT_MAX];
	} msg;

	for (;;) {
		size_t len;

		if (client->text_sent == client->text_len) {
			ssize_t n;

			free(client->text);
			client->text = NULL;
			client->text_sent = 0;
			n = report_piece(ctl, client->report, &client->text);
			client->text_len = n > 0 ? (size_t)n : 0;
		}
		len = client->text_len - client->text_sent;
		if (len > TEXT_MAX)
			len = TEXT_MAX;
		msg.header = header_of(FLEXTOE_MSG_TEXT, sizeof(msg.header) + len, len == 0);
		if (len)
			memcpy(msg.text, client->text + client->text_sent, len);
		if (!client_send(client, &msg, sizeof(msg.header) + len, NULL, 0))
			return errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS;
		if (!len) {
			report_end(client->report);
			client->report = NULL;
			client_listen_for(ctl, client, EPOLLIN);
			return true;
		}
		client->text_sent += len;
		if (client->text_sent == client->text_len)
			return true; /* the next piece in the next round */
	}
}

static bool on_status(struct control *ctl, struct client *client, const struct flextoe_msg_status *msg)
{
	client->report = report_begin(ctl, msg->what);
	if (!client->report)
		return client_refuse(client, EINVAL, "no such report");
	client_listen_for(ctl, client, EPOLLOUT | EPOLLIN);
	return report_continue(ctl, client);
}

/* False: the client is to be closed. */
static bool on_message(struct control *ctl, struct client *client, const void *bytes, size_t len)
{
	const struct flextoe_msg_header *h = bytes;
	size_t want;

	if (len < sizeof(*h) || h->length != len)
		goto bad;
	if (h->version != FLEXTOE_ABI_VERSION) {
		COUNT(ctl, app_refused);
		control_log(ctl, "pid %u speaks version %u of the interface, this engine %u", client->pid,
			h->version, FLEXTOE_ABI_VERSION);
		client_refuse(client, EPROTO, "the library and the engine are of different versions");
		return false;
	}
	switch (h->type) {
	case FLEXTOE_MSG_HELLO:
		want = sizeof(struct flextoe_msg_hello);
		break;
	case FLEXTOE_MSG_CONTEXT:
		want = sizeof(struct flextoe_msg_context);
		break;
	case FLEXTOE_MSG_CONN_INFO:
		want = sizeof(struct flextoe_msg_conn_info);
		break;
	case FLEXTOE_MSG_STATUS:
		want = sizeof(struct flextoe_msg_status);
		break;
	case FLEXTOE_MSG_HOLD:
		want = sizeof(struct flextoe_msg_hold);
		break;
	case FLEXTOE_MSG_ENTER:
		want = sizeof(*h);
		break;
	default:
		goto bad;
	}
	if (len != want)
		goto bad;
	switch (h->type) {
	case FLEXTOE_MSG_HELLO:
		return on_hello(ctl, client, bytes);
	case FLEXTOE_MSG_CONTEXT:
		return on_context(ctl, client);
	case FLEXTOE_MSG_CONN_INFO:
		return on_conn_info(ctl, client, bytes);
	case FLEXTOE_MSG_HOLD:
		return on_hold(ctl, client, bytes);
	case FLEXTOE_MSG_ENTER:
		return on_enter(ctl, client);
	default:
		return on_status(ctl, client, bytes);
	}
bad:
	COUNT(ctl, app_bad_message);
	control_log(ctl, "pid %u sent a malformed message; its channel is closed", client->pid);
	return false;
}

/*
 * A message's real length, as recv() with MSG_TRUNC. Descriptors a peer may attach are thrown away by the
 * kernel: there is no room for them.
 */
static ssize_t client_receive(struct client *client, void *bytes, size_t size)
{
	union {
		char bytes[CMSG_SPACE(sizeof(struct ucred))];
		struct cmsghdr align;
	} control;
	struct iovec iov = {.iov_base = bytes, .iov_len = size};
	struct msghdr mh = {.msg_iov = &iov, .msg_iovlen = 1};
	struct cmsghdr *cmsg;
	struct ucred cred;
	ssize_t n;

	if (client->entered) {
		mh.msg_control = control.bytes;
		mh.msg_controllen = CMSG_LEN(sizeof(cred));
	}
	n = recvmsg(client->fd, &mh, MSG_DONTWAIT | MSG_TRUNC | MSG_CMSG_CLOEXEC);
	cmsg = n > 0 && client->entered ? CMSG_FIRSTHDR(&mh) : NULL;
	if (cmsg && cmsg->cmsg_level == SOL_SOCKET && cmsg->cmsg_type == SCM_CREDENTIALS &&
		cmsg->cmsg_len == CMSG_LEN(sizeof(cred))) {
		memcpy(&cred, CMSG_DATA(cmsg), sizeof(cred));
		client->pid = (uint32_t)cred.pid;
		client->uid = cred.uid;
	}
	return n;
}

/* False: the client is to be closed. */
static bool client_read(struct control *ctl, struct client *client)
{
	union {
		struct flextoe_msg_header header;
		uint64_t align;
		uint8_t bytes[1024]; /* more than any request has */
	} msg;

	for (unsigned i = 0; i < MESSAGES_BATCH && !client->report; i++) {
		ssize_t n = client_receive(client, msg.bytes, sizeof(msg.bytes));

		if (n < 0)
			return errno == EAGAIN || errno == EINTR;
		if (n == 0)
			return false;
		if ((size_t)n > sizeof(msg.bytes))
			n = 1; /* too long: found malformed */
		if (!on_message(ctl, client, msg.bytes, (size_t)n))
			return false;
	}
	return true;
}

unsigned channel_step(struct control *ctl)
{
	struct epoll_event events[EVENTS_BATCH];
	int n = epoll_wait(ctl->epoll_fd, events, EVENTS_BATCH, 0);
	unsigned done = 0;

	for (int i = 0; i < n; i++) {
		struct client *client = events[i].data.ptr;
		bool good = true;

		done++;
		if (!client) {
			client_accept(ctl);
			continue;
		}
		if (client->report) {
			/* A message now is against the rules. It could hold the client's own end of the
			 * channel: left in the queue, that would outlive the client and never hang up. */
			if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
				good = false;
			else if (events[i].events & EPOLLOUT)
				good = report_continue(ctl, client);
		} else if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
			good = client_read(ctl, client);
		}
		if (!good)
			client_close(ctl, client);
	}
	return done;
}
