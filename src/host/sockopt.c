/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Options, fcntl() and ioctl() of sockets. An option either works, or is a hint that is kept and given back,
 * or is refused with the right errno and counted by name: docs/sockets.md has the table. While a socket is
 * undecided its options go to the kernel's socket too, so that it is ready for either fate.
 */
#include "host/posix.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <linux/sockios.h>
#include <unistd.h>

static const char *const congestion_names[FLEXTOE_CONGESTIONS] = {
	[FLEXTOE_CONGESTION_RENO] = "reno",
	[FLEXTOE_CONGESTION_CUBIC] = "cubic",
	[FLEXTOE_CONGESTION_DCTCP] = "dctcp",
};

/* What was asked for, or what the engine gives who asks for none. */
static const char *congestion_name(const struct socket *s)
{
	uint32_t n = s->congestion ? s->congestion : process.ft->welcome.congestion;

	return congestion_names[n && n < FLEXTOE_CONGESTIONS ? n : FLEXTOE_CONGESTION_CUBIC];
}

/* Options that are an int in struct socket. */
enum option_kind {
	OPTION_BOOL,
	OPTION_INT,
};
struct option {
	int level, name;
	enum option_kind kind;
	size_t offset;
	int min, max;
	bool engine; /* acts there: told with struct flextoe_hc_options */
};
#define OPTION(level, name, kind, field, min, max)                                                           \
	{                                                                                                    \
		level, name, kind, offsetof(struct socket, field), min, max, false                           \
	}
#define ENGINE(level, name, kind, field, min, max)                                                           \
	{                                                                                                    \
		level, name, kind, offsetof(struct socket, field), min, max, true                            \
	}
static const struct option options[] = {
	OPTION(SOL_SOCKET, SO_REUSEADDR, OPTION_BOOL, reuse_addr, 0, 0),
	OPTION(SOL_SOCKET, SO_REUSEPORT, OPTION_BOOL, reuse_port, 0, 0),
	ENGINE(SOL_SOCKET, SO_KEEPALIVE, OPTION_BOOL, keepalive, 0, 0),
	OPTION(SOL_SOCKET, SO_PRIORITY, OPTION_INT, priority, 0, 6),
	OPTION(IPPROTO_TCP, TCP_NODELAY, OPTION_BOOL, nodelay, 0, 0),
	OPTION(IPPROTO_TCP, TCP_CORK, OPTION_BOOL, cork, 0, 0),
	OPTION(IPPROTO_TCP, TCP_QUICKACK, OPTION_BOOL, quickack, 0, 0),
	ENGINE(IPPROTO_TCP, TCP_KEEPIDLE, OPTION_INT, keep_idle_s, 1, 32767),
	ENGINE(IPPROTO_TCP, TCP_KEEPINTVL, OPTION_INT, keep_interval_s, 1, 32767),
	ENGINE(IPPROTO_TCP, TCP_KEEPCNT, OPTION_INT, keep_count, 1, 127),
	ENGINE(IPPROTO_TCP, TCP_USER_TIMEOUT, OPTION_INT, user_timeout_ms, 0, 0x7fffffff),
	ENGINE(IPPROTO_TCP, TCP_DEFER_ACCEPT, OPTION_INT, defer_accept_s, 0, 0x7fffffff),
	ENGINE(IPPROTO_TCP, TCP_SYNCNT, OPTION_INT, syncnt, 1, 127),
	ENGINE(IPPROTO_TCP, TCP_LINGER2, OPTION_INT, linger2_s, -1, 0x7fffffff),
	OPTION(IPPROTO_TCP, TCP_NOTSENT_LOWAT, OPTION_INT, notsent_lowat, 0, 0x7fffffff),
	ENGINE(IPPROTO_TCP, TCP_MAXSEG, OPTION_INT, maxseg, 88, 32767),
	ENGINE(IPPROTO_IP, IP_TOS, OPTION_INT, tos, 0, 255),
	ENGINE(IPPROTO_IP, IP_TTL, OPTION_INT, ttl, 1, 255),
	ENGINE(IPPROTO_IPV6, IPV6_TCLASS, OPTION_INT, tos, 0, 255),
};

static const struct option *option_find(int level, int name)
{
	for (size_t i = 0; i < ARRAY_SIZE(options); i++)
		if (options[i].level == level && options[i].name == name)
			return &options[i];
	return NULL;
}

/* ---- getsockopt() ---- */

static int give(const void *from, socklen_t size, void *value, socklen_t *len)
{
	if ((int)*len < 0)
		return -EINVAL;
	if (*len > size)
		*len = size;
	memcpy(value, from, *len);
	return 0;
}

static int give_int(int from, void *value, socklen_t *len)
{
	return give(&from, sizeof(from), value, len);
}

static int give_timeout(uint64_t us, void *value, socklen_t *len)
{
	struct timeval tv = {.tv_sec = (time_t)(us / 1000000), .tv_usec = (suseconds_t)(us % 1000000)};

	return give(&tv, sizeof(tv), value, len);
}

static int state_of(const struct socket *s)
{
	static const uint8_t tcp_state[] = {
		[SOCKET_BOUND] = TCP_CLOSE,
		[SOCKET_LISTENING] = TCP_LISTEN,
		[SOCKET_CONNECTING] = TCP_SYN_SENT,
		[SOCKET_CONNECTED] = TCP_ESTABLISHED,
		[SOCKET_FAILED] = TCP_CLOSE,
	};
	unsigned flags;

	if (s->state != SOCKET_CONNECTED)
		return tcp_state[s->state];
	flags = s->conn->ntf_flags;
	if (flags & (FLEXTOE_NTF_ERROR | FLEXTOE_NTF_CLOSED))
		return TCP_CLOSE;
	if (s->shut_wr)
		return flags & FLEXTOE_NTF_FIN ? TCP_LAST_ACK : TCP_FIN_WAIT1;
	return flags & FLEXTOE_NTF_FIN ? TCP_CLOSE_WAIT : TCP_ESTABLISHED;
}

static int conn_info(const struct socket *s, struct flextoe_msg_conn_info *info)
{
	memset(info, 0, sizeof(*info));
	if (s->state != SOCKET_CONNECTED)
		return -ENOTCONN;
	info->conn = s->conn->handle;
	return attach_conn_info(process.ft, info);
}

static int give_tcp_info(const struct socket *s, void *value, socklen_t *len)
{
	struct flextoe_msg_conn_info info;
	struct tcp_info out = {.tcpi_state = (uint8_t)state_of(s)};

	if (s->state == SOCKET_LISTENING)
		out.tcpi_unacked = s->accept_count;
	if (conn_info(s, &info) == 0) {
		uint32_t mss = info.mss ? info.mss : 1;

		out.tcpi_state = (uint8_t)(info.state ? info.state : out.tcpi_state);
		out.tcpi_options = TCPI_OPT_TIMESTAMPS | TCPI_OPT_SACK | TCPI_OPT_WSCALE;
		if (info.ecn)
			out.tcpi_options |= TCPI_OPT_ECN;
		out.tcpi_rto = info.rto_us;
		out.tcpi_snd_mss = info.mss;
		out.tcpi_rcv_mss = info.mss;
		out.tcpi_advmss = info.mss;
		out.tcpi_pmtu = info.mss + 40;
		out.tcpi_rtt = info.srtt_us;
		out.tcpi_rttvar = info.rttvar_us;
		out.tcpi_snd_cwnd = info.cwnd_bytes / mss;
		out.tcpi_snd_ssthresh = info.ssthresh_bytes / mss;
		out.tcpi_unacked = (info.unacked_bytes + mss - 1) / mss;
		out.tcpi_total_retrans = info.retransmits;
		out.tcpi_rcv_space = info.rcv_wnd_bytes;
	}
	return give(&out, sizeof(out), value, len);
}

static int give_socket_option(struct socket *s, int name, void *value, socklen_t *len)
{
	struct linger linger = {.l_onoff = s->linger_on, .l_linger = s->linger_s};
	uint8_t tx_shift = process.ft->tx_shift ? process.ft->tx_shift : 18;
	uint8_t rx_shift = process.ft->rx_shift ? process.ft->rx_shift : 18;

	switch (name) {
	case SO_ERROR:
		return give_int(-socket_take_error(s), value, len);
	case SO_TYPE:
		return give_int(SOCK_STREAM, value, len);
	case SO_DOMAIN:
		return give_int(s->domain_is_ipv6 ? AF_INET6 : AF_INET, value, len);
	case SO_PROTOCOL:
		return give_int(IPPROTO_TCP, value, len);
	case SO_ACCEPTCONN:
		return give_int(s->state == SOCKET_LISTENING, value, len);
	case SO_LINGER:
		return give(&linger, sizeof(linger), value, len);
	case SO_SNDBUF:
		return give_int(s->sndbuf
					? (int)s->sndbuf
					: 1 << (s->conn && s->conn->tx_shift ? s->conn->tx_shift : tx_shift),
			value, len);
	case SO_RCVBUF:
		return give_int(s->rcvbuf
					? (int)s->rcvbuf
					: 1 << (s->conn && s->conn->rx_shift ? s->conn->rx_shift : rx_shift),
			value, len);
	case SO_RCVTIMEO:
		return give_timeout(s->rcv_timeout_us, value, len);
	case SO_SNDTIMEO:
		return give_timeout(s->snd_timeout_us, value, len);
	case SO_RCVLOWAT:
	case SO_SNDLOWAT:
		return give_int(1, value, len);
	case SO_OOBINLINE:
	case SO_BROADCAST:
	case SO_DONTROUTE:
	case SO_DEBUG:
	case SO_MARK:
	case SO_TIMESTAMP:
		return give_int(0, value, len);
	case SO_INCOMING_CPU:
	case SO_INCOMING_NAPI_ID:
		return give_int(-1, value, len);
	default:
		return -ENOPROTOOPT;
	}
}

static int give_tcp_option(struct socket *s, int name, void *value, socklen_t *len)
{
	struct flextoe_msg_conn_info info;

	switch (name) {
	case TCP_INFO:
		return give_tcp_info(s, value, len);
	case TCP_MAXSEG:
		return give_int(conn_info(s, &info) == 0 && info.mss ? (int)info.mss
				: s->maxseg			     ? s->maxseg
								     : 536,
			value, len);
	case TCP_CONGESTION:
		return give(congestion_name(s), strlen(congestion_name(s)) + 1, value, len);
	default:
		return -ENOPROTOOPT;
	}
}

int posix_getsockopt(struct socket *s, int fd, int level, int name, void *value, socklen_t *len)
{
	const struct option *option = option_find(level, name);
	struct lane *lane;
	int rc = -ENOPROTOOPT;

	if (!socket_offloaded(s))
		return PASS_TO_KERNEL;
	if (!value || !len)
		return -EFAULT;
	lane = socket_lock(s, fd);
	if (!lane)
		return -EBADF;
	if (level == SOL_SOCKET && name == SO_ERROR)
		lane_drain(lane);
	if (option && name != TCP_MAXSEG) {
		const char *field = (const char *)s + option->offset;

		rc = give_int(
			option->kind == OPTION_BOOL ? *(const bool *)field : *(const int *)field, value, len);
	} else if (level == SOL_SOCKET) {
		rc = give_socket_option(s, name, value, len);
	} else if (level == IPPROTO_TCP) {
		rc = give_tcp_option(s, name, value, len);
	} else if (level == IPPROTO_IPV6 && name == IPV6_V6ONLY && s->domain_is_ipv6) {
		rc = give_int(0, value, len);
	}
	socket_unlock(lane);
	if (rc == -ENOPROTOOPT) {
		static const char *const names[] = {
			"getsockopt SOL_SOCKET", "getsockopt IPPROTO_TCP", "getsockopt other level"};

		unsupported(names[level == SOL_SOCKET ? 0 : level == IPPROTO_TCP ? 1 : 2], name);
	}
	return rc;
}

/* ---- setsockopt() ---- */

static int take_int(const void *value, socklen_t len, int *out)
{
	if (len < sizeof(int))
		return -EINVAL;
	memcpy(out, value, sizeof(int));
	return 0;
}

static int take_timeout(const void *value, socklen_t len, uint64_t *us)
{
	struct timeval tv;

	if (len < sizeof(tv))
		return -EINVAL;
	memcpy(&tv, value, sizeof(tv));
	if (tv.tv_usec < 0 || tv.tv_usec >= 1000000)
		return -EDOM;
	*us = tv.tv_sec < 0 ? 0 : (uint64_t)tv.tv_sec * 1000000 + (uint64_t)tv.tv_usec;
	return 0;
}

static int take_linger(struct socket *s, const void *value, socklen_t len)
{
	struct linger linger;

	if (len < sizeof(linger))
		return -EINVAL;
	memcpy(&linger, value, sizeof(linger));
	s->linger_on = linger.l_onoff != 0;
	s->linger_s = linger.l_linger;
	return 0;
}

static int take_socket_option(struct socket *s, int name, const void *value, socklen_t len)
{
	int n = 0, rc;

	switch (name) {
	case SO_LINGER:
		return take_linger(s, value, len);
	case SO_RCVTIMEO:
		return take_timeout(value, len, &s->rcv_timeout_us);
	case SO_SNDTIMEO:
		return take_timeout(value, len, &s->snd_timeout_us);
	case SO_SNDBUF:
	case SO_RCVBUF: /* a hint; given back doubled, as Linux does */
		rc = take_int(value, len, &n);
		if (rc < 0)
			return rc;
		n = n < 1152 ? 2304 : n > 1 << 29 ? 1 << 30 : n * 2;
		*(name == SO_SNDBUF ? &s->sndbuf : &s->rcvbuf) = (uint32_t)n;
		return 0;
	case SO_OOBINLINE: /* there is no urgent data: it never shows */
	case SO_RCVLOWAT:
	case SO_BROADCAST:
	case SO_DONTROUTE:
		rc = take_int(value, len, &n);
		if (rc == 0 && name == SO_RCVLOWAT && n > 1)
			return -ENOPROTOOPT;
		return rc;
	default:
		return -ENOPROTOOPT;
	}
}

/* A name that ends with 0 or with the length, as in Linux. */
static int take_congestion(struct socket *s, const void *value, socklen_t len)
{
	size_t n;

	if (len < 1)
		return -EINVAL;
	n = strnlen(value, len);
	for (uint8_t i = 1; i < FLEXTOE_CONGESTIONS; i++)
		if (congestion_names[i] && strlen(congestion_names[i]) == n &&
			memcmp(congestion_names[i], value, n) == 0) {
			s->congestion = i;
			s->options_set = s->options_dirty = true;
			options_post(s);
			return 0;
		}
	return -ENOENT;
}

static int take_tcp_option(struct socket *s, int name, const void *value, socklen_t len)
{
	return name == TCP_CONGESTION ? take_congestion(s, value, len) : -ENOPROTOOPT;
}

/* What an option does beside being kept. */
static void option_act(struct socket *s, const struct option *option, int value)
{
	if (option->engine) {
		s->options_set = s->options_dirty = true;
		options_post(s);
	}
	if (option->name == TCP_NOTSENT_LOWAT && option->level == IPPROTO_TCP && value)
		unsupported("setsockopt TCP_NOTSENT_LOWAT", value); /* kept, no effect */
	if (option->level != IPPROTO_TCP || s->state != SOCKET_CONNECTED)
		return;
	if (option->name == TCP_NODELAY)
		flextoe_conn_nodelay(s->conn, s->nodelay);
	if (option->name == TCP_QUICKACK)
		conn_quickack(s->conn, s->quickack);
	/* As Linux: switching Nagle off sends what is held back, also while the socket is corked. */
	if ((option->name == TCP_CORK && !s->cork) || (option->name == TCP_NODELAY && s->nodelay))
		conn_more(s->conn, false);
	context_flush(s->conn->ctx);
}

static int take_option(struct socket *s, const struct option *option, const void *value, socklen_t len)
{
	char *field = (char *)s + option->offset;
	int n = 0, rc = take_int(value, len, &n);

	if (rc < 0)
		return rc;
	if (option->kind == OPTION_BOOL) {
		*(bool *)field = n != 0;
	} else {
		if (n < option->min || n > option->max)
			return -EINVAL;
		*(int *)field = n;
	}
	option_act(s, option, n);
	return 0;
}

void sockopt_apply(struct socket *s)
{
	/* Connections begin with Nagle off, sockets with it on. */
	if (!s->nodelay)
		flextoe_conn_nodelay(s->conn, 0);
	if (s->options_dirty) /* set while it was being opened */
		options_post(s);
}

int posix_setsockopt(struct socket *s, int fd, int level, int name, const void *value, socklen_t len)
{
	const struct option *option = option_find(level, name);
	struct lane *lane;
	bool undecided;
	int rc = -ENOPROTOOPT, n = 0;

	if (s->state == SOCKET_KERNEL)
		return PASS_TO_KERNEL;
	if (!value)
		return -EFAULT;
	lane = socket_lock(s, fd);
	if (!lane)
		return -EBADF;
	undecided = !socket_offloaded(s);
	if (option) {
		rc = take_option(s, option, value, len);
	} else if (level == SOL_SOCKET) {
		rc = take_socket_option(s, name, value, len);
	} else if (level == IPPROTO_TCP) {
		rc = take_tcp_option(s, name, value, len);
	} else if (level == IPPROTO_IPV6 && name == IPV6_V6ONLY && s->domain_is_ipv6) {
		rc = take_int(value, len, &n);
		if (rc == 0 && !undecided)
			rc = -EINVAL;
		else if (rc == 0)
			s->v6only = n != 0;
	} else if (level == IPPROTO_IP && name == IP_MTU_DISCOVER) {
		rc = take_int(value, len, &n);
		if (rc == 0 && (n < IP_PMTUDISC_WANT || n > IP_PMTUDISC_DO)) /* what we do */
			unsupported("setsockopt IP_MTU_DISCOVER", n);
	}
	socket_unlock(lane);
	if (undecided && level == IPPROTO_TCP && name == TCP_CONGESTION && rc == 0) {
		/* The kernel may have fewer algorithms than the engine: then its half keeps its own. */
		syscall(SYS_setsockopt, fd, level, name, value, len);
		return 0;
	}
	if (undecided)
		return PASS_TO_KERNEL; /* its answer is the one that counts */
	if (rc == -ENOPROTOOPT) {
		static const char *const names[] = {
			"setsockopt SOL_SOCKET", "setsockopt IPPROTO_TCP", "setsockopt other level"};

		unsupported(names[level == SOL_SOCKET ? 0 : level == IPPROTO_TCP ? 1 : 2], name);
	}
	return rc;
}

/* ---- fcntl() and ioctl() ---- */

int posix_fcntl(struct socket *s, int fd, int cmd, long arg)
{
	switch (cmd) {
	case F_GETFL:
		if (!socket_offloaded(s))
			return PASS_TO_KERNEL;
		return O_RDWR | (s->nonblock ? O_NONBLOCK : 0);
	case F_SETFL:
		s->nonblock = arg & O_NONBLOCK;
		kept_nonblock_changed(s, fd);
		if (socket_offloaded(s) && (arg & O_ASYNC))
			unsupported("fcntl O_ASYNC", 0);
		return socket_offloaded(s) ? 0 : PASS_TO_KERNEL;
	case F_SETFD:
		kept_cloexec(s, arg & FD_CLOEXEC);
		return PASS_TO_KERNEL;
	case F_DUPFD:
	case F_DUPFD_CLOEXEC: {
		int copy = (int)syscall(SYS_fcntl, fd, cmd, arg);

		if (copy < 0)
			return -errno;
		fdtable_dup(copy, &s->file);
		return copy;
	}
	default:
		return PASS_TO_KERNEL; /* of the placeholder: close-on-exec, owner, ... */
	}
}

int posix_ioctl(struct socket *s, int fd, unsigned long request, void *arg)
{
	struct lane *lane;
	int rc = 0;

	if (request == FIONBIO) {
		s->nonblock = *(int *)arg != 0;
		kept_nonblock_changed(s, fd);
		return socket_offloaded(s) ? 0 : PASS_TO_KERNEL;
	}
	if (request == FIOCLEX || request == FIONCLEX)
		kept_cloexec(s, request == FIOCLEX);
	if (!socket_offloaded(s) || (request != FIONREAD && request != SIOCOUTQ && request != SIOCATMARK &&
					    request != FIOASYNC && request != SIOCOUTQNSD))
		return PASS_TO_KERNEL;
	lane = socket_lock(s, fd);
	if (!lane)
		return -EBADF;
	lane_drain(lane);
	if (request == FIOASYNC) {
		unsupported("ioctl FIOASYNC", 0);
		rc = *(int *)arg ? -EOPNOTSUPP : 0;
	} else if (s->state == SOCKET_LISTENING) {
		rc = -EINVAL;
	} else if (request == FIONREAD) {
		*(int *)arg = s->state == SOCKET_CONNECTED ? (int)conn_rx_bytes(s->conn) : 0;
	} else if (request == SIOCATMARK) {
		*(int *)arg = 0;
	} else {
		*(int *)arg = s->state == SOCKET_CONNECTED ? (int)(s->conn->tx_head - s->conn->tx_tail) : 0;
	}
	socket_unlock(lane);
	return rc;
}
