/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Applications over a real control channel, in one thread: the test is the peer. What it sends is looked at
 * when it polls the control plane. The data path only remembers (fake_datapath.h).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "fake_datapath.h"

static struct datapath *dp;
static struct control *ctl;
static char path[64], logged[512], logged_before[512]; /* the last line and the one before */
static int doorbell;
static union {
	struct flextoe_msg_header header;
	struct flextoe_msg_welcome welcome;
	struct flextoe_msg_context context;
	struct flextoe_msg_error error;
	struct flextoe_msg_conn_info info;
	char bytes[FLEXTOE_MSG_MAX];
} got;
static int got_fds[2];

static void on_log(void *arg, const char *line)
{
	(void)arg;
	memcpy(logged_before, logged, sizeof(logged));
	snprintf(logged, sizeof(logged), "%s", line);
}

static int setup(void **state)
{
	struct control_config config;
	char err[256];

	(void)state;
	dp = fake_create();
	doorbell = eventfd(0, EFD_NONBLOCK);
	snprintf(path, sizeof(path), "/tmp/flextoe-test-%d.sock", getpid());
	config = fake_config(dp);
	config.socket_path = path;
	config.doorbell_fd = doorbell;
	config.log = on_log;
	config.spin_us = 33;
	assert_int_equal(control_create(&config, &ctl, err), 0);
	control_poll(ctl, fake_now, true);
	fake_clear(dp);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	control_destroy(ctl);
	fake_destroy(dp);
	close(doorbell);
	return 0;
}

static void poll_once(void)
{
	fake_now += 1000;
	control_poll(ctl, fake_now, true);
}

static int attach(void)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0);

	strcpy(addr.sun_path, path);
	assert_int_equal(connect(fd, (void *)&addr, sizeof(addr)), 0);
	poll_once();
	return fd;
}

/* The next message: its length, 0 when the other end hung up, -1 when there is none. */
static ssize_t next_message(int fd)
{
	union {
		char bytes[64];
		struct cmsghdr align;
	} control;
	struct iovec iov = {.iov_base = &got, .iov_len = sizeof(got)};
	struct msghdr mh = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
	ssize_t n = recvmsg(fd, &mh, MSG_DONTWAIT);
	struct cmsghdr *c;

	if (n <= 0)
		return n;
	got_fds[0] = got_fds[1] = -1;
	c = CMSG_FIRSTHDR(&mh);
	if (c)
		memcpy(got_fds, CMSG_DATA(c), c->cmsg_len - CMSG_LEN(0));
	assert_int_equal(got.header.length, n);
	assert_int_equal(got.header.version, FLEXTOE_ABI_VERSION);
	return n;
}

static struct flextoe_msg_header head(uint16_t type, uint32_t len)
{
	return (struct flextoe_msg_header){.version = FLEXTOE_ABI_VERSION, .type = type, .length = len};
}

static void request(int fd, const void *msg, size_t len)
{
	assert_int_equal(send(fd, msg, len, 0), len);
	poll_once();
}

static int hello(int fd)
{
	struct flextoe_msg_hello msg = {
		.header = head(FLEXTOE_MSG_HELLO, sizeof(msg)), .pid = 1, .name = "tester"};

	request(fd, &msg, sizeof(msg));
	assert_true(next_message(fd) > 0);
	return got.header.type;
}

static void context(int fd)
{
	struct flextoe_msg_context msg = {.header = head(FLEXTOE_MSG_CONTEXT, sizeof(msg))};

	request(fd, &msg, sizeof(msg));
	assert_true(next_message(fd) > 0);
}

static void registration(void **state)
{
	const struct fake_record *r;
	struct stat st;
	uint8_t *mine, *theirs;
	int fd = attach();

	(void)state;
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0660);
	assert_int_equal(hello(fd), FLEXTOE_MSG_WELCOME);
	assert_int_equal(got.welcome.region_size, 4ull << 30);
	assert_int_equal(got.welcome.spin_us, 33);
	assert_int_equal(got.welcome.address_count, 2);
	assert_int_equal(got.welcome.address[0].addr, OUR_IP);
	assert_non_null(strstr(logged, "tester"));
	r = fake_take(dp);
	assert_int_equal(r->type, CTL_REGION);
	theirs = r->region.base;
	assert_int_equal(fcntl(got_fds[0], F_GET_SEALS), F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
	assert_int_equal(ftruncate(got_fds[0], 0), -1);
	mine = mmap(NULL, 4ull << 30, PROT_READ | PROT_WRITE, MAP_SHARED, got_fds[0], 0);
	assert_true(mine != MAP_FAILED);
	mine[4096] = 77;
	assert_int_equal(theirs[4096], 77);
	close(got_fds[0]);
	for (uint32_t i = 0; i < 2; i++) {
		eventfd_t v;

		context(fd);
		assert_int_equal(got.header.type, FLEXTOE_MSG_CONTEXT);
		assert_int_equal(got.context.number, i);
		r = fake_take(dp);
		assert_int_equal(r->type, CTL_CONTEXT);
		assert_ptr_equal(r->context.area, theirs + i * sizeof(struct flextoe_context_area));
		eventfd_write(control_wake_fd(ctl, r->context.context), 5);
		assert_int_equal(eventfd_read(got_fds[0], &v), 0);
		assert_int_equal(v, 5);
		eventfd_write(got_fds[1], 3);
		assert_int_equal(eventfd_read(doorbell, &v), 0);
		assert_int_equal(v, 3);
		close(got_fds[0]);
		close(got_fds[1]);
	}
	munmap(mine, 4ull << 30);
	assert_int_equal(hello(fd), FLEXTOE_MSG_ERROR); /* twice */
	close(fd);
}

static void limits(void **state)
{
	int fds[5];

	(void)state;
	for (int i = 0; i < 4; i++) {
		fds[i] = attach();
		assert_int_equal(hello(fds[i]), FLEXTOE_MSG_WELCOME);
		close(got_fds[0]);
	}
	fds[4] = attach();
	assert_int_equal(hello(fds[4]), FLEXTOE_MSG_ERROR);
	assert_int_equal(got.error.header.error, ENOSPC);
	for (int i = 0; i < 16; i++) {
		context(fds[0]);
		assert_int_equal(got.header.type, FLEXTOE_MSG_CONTEXT);
		close(got_fds[0]);
		close(got_fds[1]);
	}
	context(fds[1]);
	assert_int_equal(got.header.type, FLEXTOE_MSG_ERROR);
	assert_int_equal(got.header.error, ENOSPC);
	for (int i = 0; i < 4; i++)
		close(fds[i]);
	for (int i = 0; i < 50; i++) { /* everything is back */
		poll_once();
		fake_clear(dp);
	}
	for (int i = 0; i < 4; i++) {
		assert_int_equal(ctl->apps[i].state, APP_FREE);
		fds[i] = attach();
		assert_int_equal(hello(fds[i]), FLEXTOE_MSG_WELCOME);
		close(got_fds[0]);
		close(fds[i]);
	}
	close(fds[4]);
}

static void malformed_messages(void **state)
{
	char bytes[4000] = {0};
	struct flextoe_msg_header *h = (void *)bytes;
	struct flextoe_msg_context context_request = {
		.header = head(FLEXTOE_MSG_CONTEXT, sizeof(context_request))};
	static const struct {
		size_t sent;
		uint32_t length;
		uint16_t type;
	} cases[] = {{1, 1, 1}, {15, 15, 1}, {16, 16, 1}, {16, 4000, 1}, {4000, 4000, 1}, {16, 16, 0},
		{16, 16, 99}, {16, 0, 3}, {24, 24, 6}, {48, 47, 1}, {16, 16, FLEXTOE_MSG_TEXT}};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		int fd = attach();

		*h = head(cases[i].type, cases[i].length);
		request(fd, bytes, cases[i].sent);
		if (i == 8) { /* a good length, but no such report: refused, and it may go on */
			assert_true(next_message(fd) > 0);
			assert_int_equal(got.header.type, FLEXTOE_MSG_ERROR);
		} else {
			assert_int_equal(next_message(fd), 0);
		}
		close(fd);
	}
	poll_once();
	assert_null(ctl->clients);
	*h = head(FLEXTOE_MSG_HELLO, sizeof(struct flextoe_msg_hello));
	h->version = 99;
	int fd = attach();

	request(fd, bytes, sizeof(struct flextoe_msg_hello));
	assert_true(next_message(fd) > 0);
	assert_int_equal(got.error.header.error, EPROTO);
	close(fd);
	fd = attach();
	request(fd, &context_request, sizeof(context_request)); /* before HELLO */
	assert_int_equal(next_message(fd), 0);
	close(fd);
}

static uint32_t listen_on(uint16_t port)
{
	struct flextoe_hc_endpoint hc = {.type = FLEXTOE_HC_BIND, .local_port = to_be16(port)};

	fake_hc(dp, 0, 0, &hc);
	poll_once();
	hc.type = FLEXTOE_HC_LISTEN;
	hc.endpoint = fake_take_type(dp, CTL_NOTIFY)->notify.ntf.result.endpoint;
	hc.backlog = 65535;
	fake_hc(dp, 0, 0, &hc);
	poll_once();
	fake_clear(dp);
	return hc.endpoint;
}

static uint32_t open_from(uint32_t n)
{
	struct fake_segment s = {.ctl = TCP_SYN_,
		.src = to_be32(0x0a090064u + n / 50000u),
		.src_port = (uint16_t)(1000u + n % 50000u),
		.dst_port = 80,
		.wnd = 1000};
	struct segment synack;
	uint32_t conn;

	fake_segment(dp, &s);
	control_poll(ctl, fake_now, false);
	assert_true(fake_parse(fake_take(dp), &synack));
	s.ctl = TCP_ACK_;
	s.seq = 1;
	s.ack = synack.seq + 1u;
	fake_segment(dp, &s);
	control_poll(ctl, fake_now, false);
	conn = fake_take_type(dp, CTL_INSTALL)->conn.conn;
	fake_clear(dp);
	return conn;
}

/* Does what the data path would do, with a ring that takes 64 records at a time. */
static void serve(unsigned *resets)
{
	const struct fake_record *r;

	while ((r = fake_take(dp))) {
		if (r->type == CTL_RESET) {
			(*resets)++;
			fake_event(dp, r->conn.conn, CONN_EVENT_DEAD);
		} else if (r->type == CTL_REMOVE) {
			fake_event(dp, r->conn.conn, CONN_EVENT_REMOVED);
		}
	}
}

static void exit_with_10000_connections(void **state)
{
	unsigned resets = 0, rounds = 0;
	int fd = attach();
	uint64_t began;

	(void)state;
	assert_int_equal(hello(fd), FLEXTOE_MSG_WELCOME);
	close(got_fds[0]);
	context(fd);
	close(got_fds[0]);
	close(got_fds[1]);
	listen_on(80);
	for (uint32_t i = 0; i < 10000; i++) { /* some accepted, the others as many as may wait */
		assert_int_equal(open_from(i), i);
		if (i >= 200 && i < 200 + 10000 - BACKLOG_MAX)
			fake_event(dp, i, CONN_EVENT_ACCEPTED);
	}
	fake_clear(dp);
	for (uint32_t i = 0; i < 100; i++) /* closed in order, the peers are slow */
		fake_event(dp, i, CONN_EVENT_ACCEPTED | CONN_EVENT_RELEASED);
	for (uint32_t i = 100; i < 200; i++) /* over already, but the application had not noticed */
		fake_event(dp, i, CONN_EVENT_DEAD);
	poll_once();
	close(fd);
	began = fake_now;
	fake_limit = 64;
	for (; ctl->apps[0].state != APP_FREE && rounds < 5000; rounds++) {
		fake_now += ctl->conns_open > 100 ? 50 : 5000;
		control_poll(ctl, fake_now, true);
		serve(&resets);
	}
	assert_true(fake_now - began < 1000000);
	assert_int_equal(ctl->apps[0].state, APP_FREE);
	assert_int_equal(ctl->conns_open, 0);
	assert_int_equal(resets, 9900);
	assert_int_equal(control_wake_fd(ctl, 0), -1);
	for (uint32_t i = 0; i < 3; i++) {
		fake_now += 5000;
		control_poll(ctl, fake_now, true);
	}
	assert_int_equal(ctl->port_endpoints[80], 0);
}

static void put_out(void **state)
{
	struct exc_broken broken = {
		.type = EXC_CONTEXT_BROKEN, .app = 0, .context = 0, .reason = "tx_head beyond the buffer"};
	unsigned resets = 0;
	int fd = attach();
	struct flextoe_context_area *area;
	eventfd_t v;

	(void)state;
	assert_int_equal(hello(fd), FLEXTOE_MSG_WELCOME);
	area = mmap(NULL, sizeof(*area), PROT_READ, MAP_SHARED, got_fds[0], 0);
	close(got_fds[0]);
	context(fd);
	close(got_fds[1]);
	listen_on(80);
	open_from(1);
	fake_exc(dp, &broken, sizeof(broken));
	fake_exc(dp, &broken, sizeof(broken)); /* said twice */
	poll_once();
	assert_non_null(strstr(logged, "tx_head beyond the buffer"));
	assert_int_equal(area->words.context_dead, 1);
	assert_int_equal(eventfd_read(got_fds[0], &v), 0);
	assert_int_equal(next_message(fd), 0);
	for (int i = 0; i < 40; i++) {
		poll_once();
		serve(&resets);
	}
	assert_int_equal(resets, 1);
	assert_int_equal(ctl->apps[0].state, APP_FREE);
	close(got_fds[0]);
	close(fd);
	munmap(area, sizeof(*area));
	fd = attach(); /* others are welcome */
	assert_int_equal(hello(fd), FLEXTOE_MSG_WELCOME);
	close(got_fds[0]);
	close(fd);
}

/* A page that is not to be had ends the application it belongs to, whoever touches it. */
static void missing_memory(void **state)
{
	int fd = attach(), hole = memfd_create("hole", MFD_CLOEXEC);
	unsigned resets = 0;
	uint8_t *at;

	(void)state;
	assert_int_equal(hello(fd), FLEXTOE_MSG_WELCOME);
	close(got_fds[0]);
	context(fd);
	close(got_fds[1]);
	listen_on(80);
	open_from(1);
	/* a file without pages in the middle of the region is what a hugepage given back looks like */
	at = ctl->apps[0].region + ctl->apps[0].region_size / 2;
	assert_true(mmap(at, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, hole, 0) == at);
	at[100] = 1; /* SIGBUS: caught */
	assert_int_equal(at[100], 1);
	poll_once();
	assert_non_null(strstr(logged, "put out"));
	assert_int_equal(next_message(fd), 0);
	for (int i = 0; i < 40; i++) {
		poll_once();
		serve(&resets);
	}
	assert_int_equal(resets, 1);
	assert_int_equal(ctl->apps[0].state, APP_FREE);
	close(got_fds[0]);
	close(hole);
	close(fd);
}

/* Hugepages that are not there are no reason not to serve. */
static void missing_hugepages(void **state)
{
	int fd = attach();

	(void)state;
	ctl->config.hugepages = true;
	ctl->config.region_size = 1ull << 40; /* more than any machine has of them */
	assert_int_equal(hello(fd), FLEXTOE_MSG_WELCOME);
	assert_non_null(strstr(logged_before, "no hugepages"));
	assert_non_null(strstr(logged_before, "ordinary pages"));
	close(got_fds[0]);
	close(fd);
}

static char *report(int fd, uint32_t what, unsigned *pieces)
{
	struct flextoe_msg_status msg = {.header = head(FLEXTOE_MSG_STATUS, sizeof(msg)), .what = what};
	size_t room = 8u << 20, len = 0;
	char *text = malloc(room);

	*pieces = 0;
	request(fd, &msg, sizeof(msg));
	for (int i = 0; i < 10000; i++) {
		ssize_t n = next_message(fd);

		assert_int_not_equal(n, 0);
		if (n < 0) {
			poll_once();
			continue;
		}
		assert_int_equal(got.header.type, FLEXTOE_MSG_TEXT);
		n -= (ssize_t)sizeof(got.header);
		assert_true(len + (size_t)n < room);
		memcpy(text + len, got.bytes + sizeof(got.header), (size_t)n);
		len += (size_t)n;
		text[len] = 0;
		(*pieces)++;
		if (got.header.error)
			return text;
	}
	fail_msg("the report does not end");
	return text;
}

static void reports(void **state)
{
	unsigned pieces, rows = 0;
	int app = attach(), tool = attach();
	struct flextoe_msg_conn_info info = {.header = head(FLEXTOE_MSG_CONN_INFO, sizeof(info))};
	char *text;

	(void)state;
	assert_int_equal(hello(app), FLEXTOE_MSG_WELCOME);
	close(got_fds[0]);
	context(app);
	close(got_fds[0]);
	close(got_fds[1]);
	listen_on(80);
	for (uint32_t i = 0; i < 3000; i++)
		open_from(i);
	text = report(tool, FLEXTOE_STATUS_STAT, &pieces);
	assert_non_null(strstr(text, "Drops by reason"));
	assert_non_null(strstr(text, "passive_opens"));
	free(text);
	text = report(tool, FLEXTOE_STATUS_STAT_JSON, &pieces);
	assert_non_null(strstr(text, "\"passive_opens\":3000"));
	free(text);
	text = report(tool, FLEXTOE_STATUS_PROMETHEUS, &pieces);
	assert_non_null(strstr(text, "\nflextoe_passive_opens_total 3000\n"));
	free(text);
	text = report(tool, FLEXTOE_STATUS_SS, &pieces);
	assert_true(pieces >= 3000 / 128);
	for (char *p = text; (p = strstr(p, "\nESTABLISHED")); p++)
		rows++;
	assert_int_equal(rows, 3000);
	assert_non_null(strstr(text, "LISTEN"));
	assert_non_null(strstr(text, "tester/"));
	free(text);
	text = report(tool, FLEXTOE_STATUS_SS_JSON, &pieces);
	assert_true(strncmp(text, "{\"connections\":[{", 17) == 0 && strstr(text, "}]}\n"));
	assert_null(strstr(text, "}{"));
	assert_null(strstr(text, ",]"));
	free(text);
	info.conn = datapath_conn(dp, 5)->id.handle;
	request(app, &info, sizeof(info));
	assert_true(next_message(app) > 0);
	assert_int_equal(got.header.error, 0);
	assert_int_equal(got.info.state, 1);
	info.conn ^= 1u << FLEXTOE_CONN_INDEX_BITS; /* another generation */
	request(app, &info, sizeof(info));
	assert_true(next_message(app) > 0);
	assert_int_equal(got.header.error, ENOENT);
	request(tool, &info, sizeof(info)); /* not an application */
	assert_true(next_message(tool) > 0);
	assert_int_equal(got.header.error, ENOENT);
	close(tool);
	close(app);
}

static void a_slow_reader_holds_nobody_up(void **state)
{
	struct flextoe_msg_status msg = {
		.header = head(FLEXTOE_MSG_STATUS, sizeof(msg)), .what = FLEXTOE_STATUS_STAT};
	int slow = attach(), fd = attach();

	(void)state;
	for (int i = 0; i < 2000; i++) {
		if (!ctl->clients->next->report)
			send(slow, &msg, sizeof(msg), MSG_DONTWAIT);
		poll_once();
	}
	assert_non_null(ctl->clients->next->report);
	assert_int_equal(hello(fd), FLEXTOE_MSG_WELCOME);
	close(got_fds[0]);
	close(slow);
	poll_once();
	poll_once();
	assert_int_equal(ctl->clients_count, 1);
	close(fd);
}

/* It sends its own end along with a request that waits for its report to end, reads nothing, and dies. What
 * is in the queue keeps that end open. (Found by fuzz_channel.) */
static void a_channel_that_holds_itself_open(void **state)
{
	struct flextoe_msg_status msg = {
		.header = head(FLEXTOE_MSG_STATUS, sizeof(msg)), .what = FLEXTOE_STATUS_STAT};
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr cmsg;
	} ancillary = {.cmsg = {.cmsg_level = SOL_SOCKET,
			       .cmsg_type = SCM_RIGHTS,
			       .cmsg_len = CMSG_LEN(sizeof(int))}};
	struct iovec iov = {.iov_base = &msg, .iov_len = sizeof(msg)};
	struct msghdr mh = {.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &ancillary,
		.msg_controllen = sizeof(ancillary)};
	int fd = attach();

	(void)state;
	assert_int_equal(hello(fd), FLEXTOE_MSG_WELCOME);
	close(got_fds[0]);
	for (int i = 0; i < 2000; i++) {
		if (!ctl->clients->report)
			send(fd, &msg, sizeof(msg), MSG_DONTWAIT);
		poll_once();
	}
	memcpy(CMSG_DATA(&ancillary.cmsg), &fd, sizeof(fd));
	assert_int_equal(sendmsg(fd, &mh, MSG_DONTWAIT), sizeof(msg));
	close(fd);
	poll_once();
	poll_once();
	assert_int_equal(ctl->clients_count, 0);
}

static void another_engine_keeps_its_socket(void **state)
{
	struct control_config config = fake_config(dp);
	struct control *second = NULL;
	char err[256];

	(void)state;
	config.socket_path = path;
	assert_int_equal(control_create(&config, &second, err), -EADDRINUSE);
	assert_non_null(strstr(err, path));
	assert_int_equal(access(path, F_OK), 0);
	control_destroy(ctl);
	assert_int_equal(access(path, F_OK), -1);
	assert_int_equal(control_create(&config, &ctl, err), 0);
}

/* One that cannot be served is turned away, and does not keep the engine awake. */
static void no_descriptor_left(void **state)
{
	struct rlimit old, few;
	struct pollfd look = {.fd = control_fd(ctl), .events = POLLIN};
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0), next;

	(void)state;
	strcpy(addr.sun_path, path);
	next = dup(fd);
	getrlimit(RLIMIT_NOFILE, &old);
	few = old;
	few.rlim_cur = (rlim_t)next;
	close(next);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
	assert_int_equal(connect(fd, (void *)&addr, sizeof(addr)), 0);
	poll_once();
	setrlimit(RLIMIT_NOFILE, &old);
	assert_int_equal(next_message(fd), 0);
	assert_int_equal(poll(&look, 1, 0), 0);
	assert_int_equal(control_counters(ctl)[CNT_app_refused], 1);
	close(fd);
	fd = attach(); /* and again */
	assert_int_equal(hello(fd), FLEXTOE_MSG_WELCOME);
	close(fd);
}

static int hold(int fd, uint32_t name, uint32_t wrong)
{
	const uint32_t *token = ctl->endpoints[0].token;
	struct flextoe_msg_hold msg = {.header = head(FLEXTOE_MSG_HOLD, sizeof(msg)),
		.endpoint = name,
		.token = {token[0], token[1] ^ wrong}};

	request(fd, &msg, sizeof(msg));
	assert_true(next_message(fd) > 0);
	return got.header.type;
}

static int bind_error(uint16_t port)
{
	struct flextoe_hc_endpoint hc = {.type = FLEXTOE_HC_BIND, .local_port = to_be16(port)};

	fake_hc(dp, 1, 1, &hc);
	control_poll(ctl, fake_now, false); /* does not look at the sockets */
	return fake_take_type(dp, CTL_NOTIFY)->notify.ntf.result.error;
}

/* A listener lives as long as somebody's channel holds it, and its port is free the moment the last is
 * closed. */
static void holding_a_listener(void **state)
{
	int owner = attach(), other = attach(), holder[2] = {attach(), attach()};
	uint32_t name;

	(void)state;
	assert_int_equal(hello(owner), FLEXTOE_MSG_WELCOME);
	context(owner);
	assert_int_equal(hello(other), FLEXTOE_MSG_WELCOME);
	context(other);
	name = listen_on(80);
	assert_int_equal(hold(holder[0], name, 1), FLEXTOE_MSG_ERROR);
	assert_int_equal(hold(holder[0], name + 1u, 0), FLEXTOE_MSG_ERROR);
	assert_int_equal(hold(holder[0], name, 0), FLEXTOE_MSG_HOLD);
	assert_int_equal(hold(holder[0], name, 0), FLEXTOE_MSG_ERROR); /* once */
	assert_int_equal(hold(owner, name, 0), FLEXTOE_MSG_ERROR);     /* has a use already */
	assert_int_equal(hello(holder[0]), FLEXTOE_MSG_ERROR);
	assert_int_equal(hold(holder[1], name, 0), FLEXTOE_MSG_HOLD);
	close(owner);
	poll_once();
	fake_clear(dp);
	assert_int_equal(bind_error(80), EADDRINUSE);
	close(holder[0]);
	poll_once();
	assert_int_equal(bind_error(80), EADDRINUSE);
	close(holder[1]);
	assert_int_equal(bind_error(80), 0); /* the hang-up has not been handled yet */
	poll_once();
	assert_int_equal(ctl->clients_count, 1);
	close(other);
}

/* Who may not connect any more comes in over a channel that holds a listener, and over no other. */
static void entering(void **state)
{
	struct flextoe_msg_header enter = head(FLEXTOE_MSG_ENTER, sizeof(enter));
	int owner = attach(), holder = attach(), fd;
	uint32_t name;

	(void)state;
	assert_int_equal(hello(owner), FLEXTOE_MSG_WELCOME);
	context(owner);
	name = listen_on(80);
	request(holder, &enter, sizeof(enter));
	assert_true(next_message(holder) > 0);
	assert_int_equal(got.header.type, FLEXTOE_MSG_ERROR);
	assert_int_equal(hold(holder, name, 0), FLEXTOE_MSG_HOLD);
	request(holder, &enter, sizeof(enter));
	assert_true(next_message(holder) > 0);
	assert_int_equal(got.header.type, FLEXTOE_MSG_ENTER);
	fd = got_fds[0];
	assert_true(fd >= 0);
	assert_int_equal(hello(fd), FLEXTOE_MSG_WELCOME);
	assert_int_equal(ctl->apps[1].pid, getpid()); /* the kernel says who it is */
	assert_int_equal(ctl->apps[1].uid, getuid());
	close(fd);
	poll_once();
	assert_int_not_equal(ctl->apps[1].state, APP_ALIVE);
	close(holder);
	close(owner);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(registration),
		CASE(limits),
		CASE(malformed_messages),
		CASE(exit_with_10000_connections),
		CASE(put_out),
		CASE(missing_memory),
		CASE(missing_hugepages),
		CASE(reports),
		CASE(a_slow_reader_holds_nobody_up),
		CASE(a_channel_that_holds_itself_open),
		CASE(another_engine_keeps_its_socket),
		CASE(no_descriptor_left),
		CASE(holding_a_listener),
		CASE(entering),
	};

	return cmocka_run_group_tests_name("applications", tests, NULL, NULL);
}
