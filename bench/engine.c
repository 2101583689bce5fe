/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * `flextoe bench engine`: 64-byte echo between two engines over a memory link, one core a side. Each side is
 * one thread that runs its data path, its control plane and its application (native interface) in turns, as
 * on a machine where they share a core. The baseline is kernel TCP: the same echo over veth in the same run,
 * the server on one core and the client on the other.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <arpa/inet.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "bench/lab.h"
#include "control/control.h"
#include "core/platform.h"
#include "host/attach.h"

#define MESSAGE	   64u
#define PORT	   7000
#define CONNS_ROOM 2048u
#define EVENTS	   64

struct side {
	struct datapath *dp;
	struct copy_engine *copy;
	struct control *control;
	uint32_t app;
	uint8_t *region;
	struct flextoe *ft;
	struct flextoe_context *ctx;
	int cpu;
	bool server;
	const struct engine_case *what;
	atomic_bool *stop;
	atomic_uint *listening;
	/* the client's figures */
	atomic_ullong operations;
	atomic_uint open;
	char error[256];
};

struct engine_case {
	const char *name;
	unsigned connections, pipeline;
};

static void side_kick(void *arg, uint32_t context)
{
	(void)arg, (void)context; /* nobody sleeps here */
}

static int side_context(void *arg, uint32_t *number, uint64_t *offset, int *wake_fd, int *doorbell_fd)
{
	struct side *s = arg;

	*doorbell_fd = -1;
	return control_context_open(s->control, s->app, number, offset, wake_fd);
}

static void side_log(void *arg, const char *line)
{
	(void)arg;
	fprintf(stderr, "%s\n", line);
}

static int side_open(struct side *s, struct device *dev, const char *addr)
{
	struct datapath_config dc = {
		.conns_max = CONNS_ROOM, .apps_max = 4, .contexts_max = 8, .kick = side_kick, .kick_arg = s};
	struct control_config cc = {.address_count = 1,
		.loop_port = CONTROL_PORT_NONE,
		.apps_max = 4,
		.contexts_max = 8,
		.region_size = 1ull << 30,
		.rx_shift = 16,
		.tx_shift = 16,
		.doorbell_fd = -1,
		.log = side_log};
	struct control_app_info info;
	struct flextoe_memory memory = {
		.conns_max = CONNS_ROOM, .contexts_max = 4, .context_open = side_context, .arg = s};
	int err;

	s->copy = copy_memcpy_create(dc.apps_max);
	dc.copy = s->copy;
	s->dp = s->copy ? datapath_create(&dc) : NULL;
	if (!s->dp)
		return -ENOMEM;
	cc.dp = s->dp;
	cc.address[0].port = (unsigned)datapath_port_add(s->dp, dev);
	inet_pton(AF_INET, addr, &cc.address[0].addr);
	cc.address[0].prefix_len = 24;
	err = control_create(&cc, &s->control, s->error);
	if (err)
		return err;
	err = control_app_open(s->control, "bench", &info);
	if (err)
		return err;
	s->app = info.app;
	memory.base = info.region;
	memory.size = info.region_size;
	err = flextoe_attach_memory(&memory, &s->ft);
	if (err)
		return err;
	return flextoe_context_open(s->ft, &s->ctx);
}

static void side_close(struct side *s)
{
	if (s->ft)
		flextoe_close(s->ft);
	if (s->control)
		control_destroy(s->control);
	datapath_destroy(s->dp);
	if (s->copy)
		s->copy->ops->close(s->copy);
}

static void side_engine(struct side *s)
{
	uint64_t now = clock_us();

	datapath_poll(s->dp, now);
	control_poll(s->control, now, false);
}

/* Answers whole messages in place: from the receive buffer into the transmit buffer. */
static void serve(struct flextoe_conn *conn)
{
	struct iovec in[2], out[2];
	ssize_t have = flextoe_rx_window(conn, in), room;
	size_t n, done = 0;

	if (have <= 0) {
		if (have < 0)
			flextoe_conn_close(conn);
		return;
	}
	room = flextoe_tx_window(conn, out);
	n = have < room ? (size_t)have : (size_t)(room > 0 ? room : 0);
	while (done < n) {
		size_t k = n - done;

		k = k < in[0].iov_len ? k : in[0].iov_len;
		k = k < out[0].iov_len ? k : out[0].iov_len;
		memcpy(out[0].iov_base, in[0].iov_base, k);
		in[0].iov_base = (char *)in[0].iov_base + k;
		in[0].iov_len -= k;
		out[0].iov_base = (char *)out[0].iov_base + k;
		out[0].iov_len -= k;
		if (!in[0].iov_len)
			in[0] = in[1];
		if (!out[0].iov_len)
			out[0] = out[1];
		done += k;
	}
	flextoe_rx_done(conn, n);
	flextoe_tx_commit(conn, n);
}

/* Sends `count` messages. */
static void ask(struct flextoe_conn *conn, unsigned count)
{
	struct iovec out[2];

	for (; count; count--) {
		if (flextoe_tx_window(conn, out) < (ssize_t)MESSAGE)
			return; /* cannot be: the pipeline is far smaller than the buffer */
		memset(out[0].iov_base, 7, out[0].iov_len < MESSAGE ? out[0].iov_len : MESSAGE);
		if (out[0].iov_len < MESSAGE)
			memset(out[1].iov_base, 7, MESSAGE - out[0].iov_len);
		flextoe_tx_commit(conn, MESSAGE);
	}
}

static void client_event(struct side *s, struct flextoe_event *e)
{
	struct iovec in[2];
	ssize_t have;

	if (e->type == FLEXTOE_EVENT_OPEN) {
		atomic_fetch_add(&s->open, 1);
		ask(e->conn, s->what->pipeline);
		return;
	}
	if (e->type == FLEXTOE_EVENT_ERROR) {
		snprintf(s->error, sizeof(s->error), "a connection broke: %s", strerror(e->error));
		return;
	}
	if (e->type != FLEXTOE_EVENT_READABLE)
		return;
	have = flextoe_rx_window(e->conn, in);
	if (have < (ssize_t)MESSAGE)
		return;
	have -= have % MESSAGE;
	if (*(unsigned char *)in[0].iov_base != 7)
		snprintf(s->error, sizeof(s->error), "an echo came back wrong");
	flextoe_rx_done(e->conn, (size_t)have);
	ask(e->conn, (unsigned)((size_t)have / MESSAGE));
	atomic_fetch_add_explicit(&s->operations, (size_t)have / MESSAGE, memory_order_relaxed);
}

static void *side_main(void *arg)
{
	struct side *s = arg;
	struct flextoe_event events[EVENTS];
	struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons(PORT)};
	struct flextoe_listener *listener;
	unsigned started = 0;
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET((size_t)s->cpu, &set);
	pthread_setaffinity_np(pthread_self(), sizeof(set), &set);
	inet_pton(AF_INET, "10.78.0.1", &addr.sin_addr);
	if (s->server)
		flextoe_listen(s->ctx, &addr, 4096, 0, NULL, &listener);
	while (!atomic_load_explicit(s->stop, memory_order_relaxed)) {
		int n;

		side_engine(s);
		n = flextoe_poll(s->ctx, events, EVENTS);
		for (int i = 0; i < n; i++) {
			if (!s->server)
				client_event(s, &events[i]);
			else if (events[i].type == FLEXTOE_EVENT_LISTENING)
				atomic_store(s->listening, events[i].error ? 2 : 1);
			else if (events[i].type == FLEXTOE_EVENT_READABLE)
				serve(events[i].conn);
		}
		if (!s->server && atomic_load(s->listening) && started < s->what->connections &&
			atomic_load(&s->open) + 16 > started) {
			struct flextoe_conn *conn;

			if (flextoe_connect(s->ctx, NULL, &addr, NULL, &conn) == 0)
				started++;
		}
	}
	return NULL;
}

/* Operations per second of one run. */
static int engine_measure(const struct engine_case *c, double warmup_s, double seconds, double *rate)
{
	struct link_config lc = {
		.slots = 1024, .mtu = 1500, .mac_a = {2, 0, 0, 0, 0, 1}, .mac_b = {2, 0, 0, 0, 0, 2}};
	struct side server = {.server = true, .cpu = 0, .what = c}, client = {.cpu = 1, .what = c};
	struct device *a = NULL, *b = NULL;
	struct device_error derr = {""};
	atomic_bool stop = false;
	atomic_uint listening = 0;
	pthread_t threads[2];
	unsigned long long before;
	uint64_t t0, limit;
	int err = link_open_pair(&lc, &a, &b, &derr);

	if (err) {
		fprintf(stderr, "flextoe bench engine: %s\n", derr.text);
		return err;
	}
	server.stop = client.stop = &stop;
	server.listening = client.listening = &listening;
	err = side_open(&server, a, "10.78.0.1");
	if (!err)
		err = side_open(&client, b, "10.78.0.2");
	if (!err) {
		pthread_create(&threads[0], NULL, side_main, &server);
		pthread_create(&threads[1], NULL, side_main, &client);
		limit = clock_us() + 5000000;
		while (atomic_load(&client.open) < c->connections && clock_us() < limit)
			usleep(1000);
		if (atomic_load(&client.open) < c->connections) {
			fprintf(stderr, "flextoe bench engine: %u of %u connections opened in 5 s\n",
				atomic_load(&client.open), c->connections);
			err = -ETIMEDOUT;
		}
		usleep((useconds_t)(warmup_s * 1e6));
		before = atomic_load(&client.operations);
		t0 = clock_us();
		usleep((useconds_t)(seconds * 1e6));
		*rate = (double)(atomic_load(&client.operations) - before) * 1e6 / (double)(clock_us() - t0);
		atomic_store(&stop, true);
		pthread_join(threads[0], NULL);
		pthread_join(threads[1], NULL);
		if (getenv("FLEXTOE_BENCH_COUNTERS")) {
			control_report(server.control, stderr, FLEXTOE_STATUS_STAT);
			control_report(client.control, stderr, FLEXTOE_STATUS_STAT);
		}
	}
	if (server.error[0] || client.error[0]) {
		fprintf(stderr, "flextoe bench engine: %s%s\n", server.error, client.error);
		err = err ? err : -EIO;
	}
	side_close(&client);
	side_close(&server);
	a->ops->close(a);
	b->ops->close(b);
	return err;
}

static int engine_run(struct bench_run *run)
{
	static const struct engine_case cases[] = {
		{"256x1", 256, 1}, {"256x16", 256, 16}, {"1x1", 1, 1}, {"16x1", 16, 1}, {"16x16", 16, 16}};
	unsigned repetitions = run->repetitions ? run->repetitions : 3;
	double seconds = run->seconds > 0 ? run->seconds : 1.0;
	struct lab_child *server = NULL;
	char program[512];
	struct lab lab;
	int err = lab_open(&lab, &lab_tap);

	if (repetitions > 15)
		repetitions = 15;
	if (!err && bench_program("ft-echo", program, sizeof(program)))
		server = lab_serve(&lab, LAB_KERNEL,
			(const char *const[]){program, "--listen", "ADDR:7000", NULL}, PORT);
	if (!err && !server)
		err = -EIO;
	for (unsigned i = 0; i < ARRAY_SIZE(cases) && !err; i++) {
		struct lab_load load = {.mode = "echo",
			.port = PORT,
			.size = MESSAGE,
			.connections = cases[i].connections,
			.pipeline = cases[i].pipeline,
			.warmup_s = 0.3,
			.seconds = seconds};
		double rates[15], kernel_rates[15];

		if (!bench_wants(run, cases[i].name))
			continue;
		for (unsigned r = 0; r < repetitions && !err; r++) {
			struct lab_figures f;

			bench_progress(run, "%s: %u of %u", cases[i].name, r + 1, repetitions);
			err = engine_measure(&cases[i], 0.2, seconds, &rates[r]);
			if (!err)
				err = lab_measure(&lab, LAB_KERNEL, server, &load, &f);
			kernel_rates[r] = err ? 0 : f.rate;
		}
		if (!err)
			bench_add(run, cases[i].name, "throughput", "operations/s",
				bench_median(rates, repetitions), bench_median(kernel_rates, repetitions));
	}
	lab_close(&lab);
	snprintf(run->note, sizeof(run->note),
		"value: two engines over a memory link, engine and application of a side in one thread on "
		"one core.\n"
		"baseline: kernel TCP over veth, server and client on a core each, in the same run.");
	return err;
}

extern const struct bench bench_engine;
const struct bench bench_engine = {
	"engine", "64-byte echo between two engines over a memory link", engine_run};
