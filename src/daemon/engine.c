/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Binds devices, data path and control plane to one thread and runs them: a round of each, again and again
 * while there is work; without work it looks for spin_us and then sleeps on everything that can bring some
 * (device, doorbell, control channel, signal, the next timer). Called by main.c. It knows no segment and no
 * socket call of an application; what is configured is in `config`, which does not change while it runs.
 *
 * Falling asleep loses nothing: each device is armed and looked at once more (wait_begin), then the contexts
 * are told and looked at once more (datapath_sleep_begin); work that comes later makes a descriptor readable.
 */
#include "daemon/engine.h"

#include <arpa/inet.h>
#include <errno.h>
#include <grp.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include "core/platform.h"
#include "daemon/log.h"
#include "daemon/ports.h"
#include "daemon/prometheus.h"
#include "daemon/waker.h"

#define SIDE_EVERY_US  1000u /* how often the slow descriptors are looked at while busy */
#define SPIN_US_MANY   50u   /* default spin with more than SPIN_CORES_FEW cores */
#define SPIN_CORES_FEW 2
#define YIELD_LONG_US  500u /* who keeps the core so long computes: the engine sleeps instead of yielding */
#define YIELD_PAUSE_US 200000u /* for so long */
#define SHUTDOWN_POLL_US                                                                                     \
	50000u /* the data path goes on so long after the control plane has reset everything */

enum wake_source {
	WAKE_DEVICE,
	WAKE_DOORBELL,
	WAKE_SIDE,
	WAKE_CONTROL,
	WAKE_SIGNAL,
	WAKE_PROMETHEUS,
	WAKE_LINK
};

struct engine {
	const struct config *config;
	struct ports ports;
	struct copy_engine *copy;
	struct datapath *dp;
	struct control *ctl;
	struct prometheus *prom;
	struct waker *waker;
	int doorbell_fd, signal_fd;
	int wake_epoll; /* what ends a sleep: devices, doorbell, and side_epoll as one */
	int side_epoll; /* what is slow: control channel, signals, prometheus, link hand-over */
	bool must_poll; /* a device cannot wake us */
	bool stop;
	uint64_t spin_us, app_spin_us;
	uint64_t idle_spin_us;	/* how long to look while all applications sleep */
	bool yielded;		/* since there was work last */
	uint64_t yield_from_us; /* not before: whoever got the core last kept it for long */
};

static void engine_kick(void *arg, uint32_t context)
{
	struct engine *e = arg;
	int fd = e->ctl != NULL ? control_wake_fd(e->ctl, context) : -1;
	int rc = fd >= 0 ? waker_wake(e->waker, fd) : 0;

	if (rc == -EDEADLK)
		datapath_context_break(e->dp, context, "made the engine wait to wake it");
	else if (rc < 0 && rc != -EAGAIN) /* a full counter: it is awake already */
		log_line(CONFIG_LOG_WARNING, "an application was not woken: %s", strerror(-rc));
}

static void engine_log(void *arg, const char *line)
{
	(void)arg;
	log_line(CONFIG_LOG_INFO, "%s", line);
}

static int engine_wake(void *arg, int fd)
{
	return waker_wake(((struct engine *)arg)->waker, fd);
}

static int epoll_watch(int epoll_fd, int fd, enum wake_source source)
{
	/* The doorbell is not read, which would be a system call a wake-up: each ring is an edge. That it
	 * could still count (EPOLLOUT) comes along: see doorbell_look(). */
	uint32_t edge = source == WAKE_DOORBELL ? EPOLLET | EPOLLOUT : 0u;
	struct epoll_event ev = {.events = EPOLLIN | edge, .data.u32 = source};

	return fd < 0 || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &ev) == 0 ? 0 : -errno;
}

/*
 * All applications have the same doorbell. One that writes it full would keep the others from ringing it; its
 * own write is an edge, so this is called then. RWF_NOWAIT, since an application can take O_NONBLOCK away.
 */
static void doorbell_look(const struct engine *e, uint32_t events)
{
	uint64_t count;
	struct iovec iov = {.iov_base = &count, .iov_len = sizeof(count)};

	if (!(events & EPOLLOUT) && preadv2(e->doorbell_fd, &iov, 1, -1, RWF_NOWAIT) < 0 && errno != EAGAIN)
		log_line(CONFIG_LOG_WARNING, "the doorbell cannot be read: %s", strerror(errno));
}

static void signal_take(struct engine *e)
{
	struct signalfd_siginfo info;

	while (read(e->signal_fd, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
		if (info.ssi_signo == SIGHUP) {
			log_reopen();
			continue;
		}
		e->stop = true;
	}
}

/* Looks at the slow descriptors; true when the control channel has something. */
static bool side_look(struct engine *e)
{
	struct epoll_event ev[8];
	int n = epoll_wait(e->side_epoll, ev, 8, 0);
	bool sockets = false;

	for (int i = 0; i < n; i++) {
		switch (ev[i].data.u32) {
		case WAKE_CONTROL:
			sockets = true;
			break;
		case WAKE_SIGNAL:
			signal_take(e);
			break;
		case WAKE_PROMETHEUS:
			prometheus_poll(e->prom);
			break;
		case WAKE_LINK:
			ports_link_serve(&e->ports);
			break;
		default:
			break;
		}
	}
	return sockets;
}

/* Sleeps until there may be work. True when a slow descriptor is among what woke us. */
static bool engine_sleep(struct engine *e)
{
	struct epoll_event ev[DATAPATH_PORTS_MAX + 2];
	uint64_t next_us = control_next_us(e->ctl, clock_us());
	bool stay = next_us == 0;
	bool side = false;
	int n = 0;

	for (unsigned i = 0; i < e->ports.count; i++)
		if (e->ports.device[i]->ops->wait_begin(e->ports.device[i]))
			stay = true;
	if (datapath_sleep_begin(e->dp))
		stay = true;
	if (!stay) {
		if (e->must_poll && next_us > e->config->poll_us)
			next_us = e->config->poll_us;
		if (next_us > DATAPATH_LOOK_US && !datapath_sleep_deep(e->dp))
			next_us = DATAPATH_LOOK_US;
		if (next_us == UINT64_MAX) {
			n = epoll_wait(e->wake_epoll, ev, (int)ARRAY_SIZE(ev), -1);
		} else {
			struct timespec ts = {.tv_sec = (time_t)(next_us / 1000000u),
				.tv_nsec = (long)(next_us % 1000000u) * 1000};

			n = epoll_pwait2(e->wake_epoll, ev, (int)ARRAY_SIZE(ev), &ts, NULL);
			if (n < 0 && errno == ENOSYS) /* Linux before 5.11 */
				n = epoll_wait(
					e->wake_epoll, ev, (int)ARRAY_SIZE(ev), (int)(next_us / 1000u) + 1);
		}
	}
	datapath_cpu_set(e->dp, sched_getcpu());
	datapath_sleep_end(e->dp);
	for (unsigned i = 0; i < e->ports.count; i++)
		e->ports.device[i]->ops->wait_end(e->ports.device[i]);
	for (int i = 0; i < n; i++) {
		side |= ev[i].data.u32 == WAKE_SIDE;
		if (ev[i].data.u32 == WAKE_DOORBELL)
			doorbell_look(e, ev[i].events);
	}
	return side;
}

/*
 * Hands the core to an application that waits for it, which takes less system calls on either side than
 * sleeping and being rung for. Once after work, and not for a while after somebody kept the core for long: a
 * sleeper is woken by the next frame, one that yielded waits for its turn. False: not done.
 */
static bool engine_yield(struct engine *e, uint64_t now_us)
{
	uint64_t end_us;

	if (e->spin_us != 0 || e->yielded || now_us < e->yield_from_us || !datapath_core_wanted(e->dp))
		return false;
	e->yielded = true;
	sched_yield();
	end_us = clock_us();
	if (end_us - now_us > YIELD_LONG_US)
		e->yield_from_us = end_us + YIELD_PAUSE_US;
	return true;
}

static void engine_loop(struct engine *e)
{
	enum config_idle idle = (enum config_idle)e->config->idle;
	bool may_sleep = idle != CONFIG_IDLE_SPIN && !(e->must_poll && e->config->poll_us == 0);
	uint64_t busy_us = clock_us(); /* when there was work last */
	uint64_t side_us = 0;
	bool side = true;

	while (!e->stop) {
		uint64_t now_us = clock_us();
		bool sockets = false;
		unsigned work;

		if (side || now_us - side_us >= SIDE_EVERY_US) {
			sockets = side_look(e);
			side_us = now_us;
			side = false;
			if (e->stop)
				break;
		}
		work = datapath_poll(e->dp, now_us);
		work += control_poll(e->ctl, now_us, sockets);
		if (work > 0 || datapath_more(e->dp)) {
			busy_us = now_us;
			e->yielded = false;
			continue;
		}
		if (may_sleep && engine_yield(e, now_us))
			continue;
		if (may_sleep && now_us - busy_us >= e->spin_us &&
			(now_us - busy_us >= e->idle_spin_us || !datapath_core_idle(e->dp)))
			side = engine_sleep(e);
		else if (idle == CONFIG_IDLE_YIELD)
			sched_yield();
		else
			cpu_pause();
	}
}

/* Device statistics behind the control plane's counters, in the report's own form. */
static void engine_report(void *arg, FILE *out, uint32_t what)
{
	struct engine *e = arg;

	if (what != FLEXTOE_STATUS_STAT && what != FLEXTOE_STATUS_STAT_JSON &&
		what != FLEXTOE_STATUS_PROMETHEUS)
		return;
	if (what == FLEXTOE_STATUS_STAT_JSON)
		fputs("\"devices\":[", out);
	if (what == FLEXTOE_STATUS_STAT)
		fputs("\nDevices\n", out);
	for (unsigned i = 0; i < e->ports.count; i++) {
		struct device *dev = e->ports.device[i];
		struct device_stats s = {0};
		const struct {
			const char *name;
			uint64_t value;
		} item[] = {
			{"rx_frames", (dev->ops->stats(dev, &s), s.rx_frames)},
			{"rx_bytes", s.rx_bytes},
			{"tx_frames", s.tx_frames},
			{"tx_bytes", s.tx_bytes},
			{"rx_dropped", s.rx_dropped},
			{"tx_dropped", s.tx_dropped},
			{"rx_errors", s.rx_errors},
		};

		if (what == FLEXTOE_STATUS_STAT_JSON)
			fprintf(out, "%s{\"name\":\"%s\",\"kind\":\"%s\",\"mtu\":%u", i > 0 ? "," : "",
				dev->name, dev->ops->name, dev->mtu);
		for (size_t k = 0; k < ARRAY_SIZE(item); k++) {
			if (what == FLEXTOE_STATUS_STAT_JSON)
				fprintf(out, ",\"%s\":%llu", item[k].name, (unsigned long long)item[k].value);
			else if (what == FLEXTOE_STATUS_PROMETHEUS)
				fprintf(out, "flextoe_device_%s_total{device=\"%s\",kind=\"%s\"} %llu\n",
					item[k].name, dev->name, dev->ops->name,
					(unsigned long long)item[k].value);
			else if (item[k].value != 0)
				fprintf(out, "%16llu  %-24s %s (%s)\n", (unsigned long long)item[k].value,
					item[k].name, dev->name, dev->ops->name);
		}
		if (what == FLEXTOE_STATUS_STAT_JSON)
			fputs("}", out);
	}
	if (what == FLEXTOE_STATUS_STAT_JSON)
		fputs("]", out);
}

static void prometheus_page(void *arg, FILE *out)
{
	struct engine *e = arg;

	control_report(e->ctl, out, FLEXTOE_STATUS_PROMETHEUS);
}

/* A socket file that nobody serves is removed; one that a living engine serves is not ours to take. */
static int socket_claim(const char *path, struct config_error *err)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	struct stat st;
	int fd, rc = 0;

	if (lstat(path, &st) != 0)
		return 0;
	if (!S_ISSOCK(st.st_mode)) {
		snprintf(err->text, sizeof(err->text), "%s is there already and is not a socket", path);
		return -EEXIST;
	}
	if (strlen(path) >= sizeof(un.sun_path))
		return 0;
	strcpy(un.sun_path, path);
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return 0;
	if (connect(fd, (struct sockaddr *)&un, sizeof(un)) == 0 || errno == EAGAIN || errno == EPROTOTYPE) {
		snprintf(err->text, sizeof(err->text),
			"another program serves %s already: stop it, or give this one its own --socket",
			path);
		rc = -EADDRINUSE;
	} else if (errno == ECONNREFUSED) {
		log_line(CONFIG_LOG_INFO, "%s was left behind by an engine that is gone: removed", path);
		unlink(path);
	}
	close(fd);
	return rc;
}

static int socket_permit(const struct config *config, struct config_error *err)
{
	if (config->socket_group[0] != '\0') {
		struct group *group = getgrnam(config->socket_group);

		if (group == NULL) {
			snprintf(err->text, sizeof(err->text),
				"socket-group is '%.100s'; there is no such group", config->socket_group);
			return -ENOENT;
		}
		if (chown(config->socket, (uid_t)-1, group->gr_gid) != 0)
			log_line(CONFIG_LOG_WARNING, "%s keeps its group: %s", config->socket,
				strerror(errno));
	}
	if (chmod(config->socket, (mode_t)config->socket_mode) != 0) {
		int rc = -errno;

		snprintf(err->text, sizeof(err->text), "cannot set the mode of %.200s: %s", config->socket,
			strerror(-rc));
		return rc;
	}
	return 0;
}

static unsigned log2_of(uint64_t v)
{
	return (unsigned)__builtin_ctzll(v);
}

static int control_start(struct engine *e, struct config_error *err)
{
	const struct config *config = e->config;
	struct control_config *c = calloc(1, sizeof(*c));
	char reason[256] = "";
	mode_t mask;
	int rc;

	if (c == NULL)
		return -ENOMEM;
	rc = socket_claim(config->socket, err);
	if (rc != 0) {
		free(c);
		return rc;
	}
	c->dp = e->dp;
	for (unsigned i = 0; i < config->address_count; i++)
		c->address[c->address_count++] = (struct control_address){.port = config->address[i].device,
			.addr = config->address[i].addr,
			.prefix_len = config->address[i].prefix_len};
	for (unsigned i = 0; i < config->route_count; i++)
		c->route[c->route_count++] = (struct control_route){.prefix = config->route[i].prefix,
			.prefix_len = config->route[i].prefix_len,
			.port = config->route[i].device,
			.gateway = config->route[i].gateway};
	c->loop_port = e->ports.loop;
	c->ephemeral_low = (uint16_t)config->port_low;
	c->ephemeral_high = (uint16_t)config->port_high;
	c->region_size = config->region_bytes;
	c->rx_shift = (uint8_t)log2_of(config->rx_buffer);
	c->tx_shift = (uint8_t)log2_of(config->tx_buffer);
	c->apps_max = (uint32_t)config->apps;
	c->contexts_max = (uint32_t)config->contexts;
	c->time_wait_ms = (uint32_t)config->time_wait_ms;
	c->time_wait_max = (uint32_t)config->time_wait_max;
	c->spin_us = (uint32_t)e->app_spin_us;
	c->all_routes = config->all_routes != 0;
	c->hugepages = config->hugepages != 0;
	c->congestion = (uint8_t)(config->congestion + 1u);
	c->ecn = config->ecn == 2 ? CONTROL_ECN_PASSIVE : config->ecn ? CONTROL_ECN_ON : CONTROL_ECN_OFF;
	c->socket_path = config->socket;
	c->doorbell_fd = e->doorbell_fd;
	c->wake = engine_wake;
	c->wake_arg = e;
	c->log = engine_log;
	c->report_extra = engine_report;
	c->report_arg = e;

	mask = umask(0177); /* nobody else attaches before socket_permit() */
	rc = control_create(c, &e->ctl, reason);
	umask(mask);
	free(c);
	if (rc != 0) {
		snprintf(err->text, sizeof(err->text), "%s", reason[0] != '\0' ? reason : strerror(-rc));
		return rc;
	}
	return socket_permit(config, err);
}

static int datapath_start(struct engine *e, struct config_error *err)
{
	const struct config *config = e->config;
	struct datapath_config d = {
		.conns_max = (uint32_t)config->conns,
		.apps_max = (uint32_t)config->apps,
		.contexts_max = (uint32_t)config->contexts,
		.ooo_max = config->ooo == CONFIG_AUTO ? 0 : (uint32_t)config->ooo,
		.kick = engine_kick,
		.kick_arg = e,
	};
	int rc;

	e->copy = copy_memcpy_create(d.apps_max);
	d.copy = e->copy;
	e->dp = e->copy != NULL ? datapath_create(&d) : NULL;
	if (e->dp == NULL) {
		snprintf(err->text, sizeof(err->text), "no memory for %llu connections",
			(unsigned long long)config->conns);
		return -ENOMEM;
	}
	for (unsigned i = 0; i < e->ports.count; i++) {
		rc = datapath_port_add(e->dp, e->ports.device[i]);
		if (rc != (int)i) {
			snprintf(err->text, sizeof(err->text), "device %s does not fit",
				e->ports.device[i]->name);
			return rc < 0 ? rc : -ENOSPC;
		}
	}
	return 0;
}

/* Placement. What the machine does not allow is said and done without. */
static void thread_place(struct engine *e)
{
	const struct config *config = e->config;
	cpu_set_t set;
	int cores;

	if (config->core != CONFIG_AUTO) {
		CPU_ZERO(&set);
		CPU_SET((int)config->core, &set);
		if (sched_setaffinity(0, sizeof(set), &set) != 0)
			log_line(CONFIG_LOG_WARNING, "not pinned to core %u: %s", (unsigned)config->core,
				strerror(errno));
	}
	if (config->nice != 0 && config->nice != CONFIG_AUTO &&
		setpriority(PRIO_PROCESS, 0, -(int)config->nice) != 0)
		log_line(CONFIG_LOG_WARNING, "the priority stays as it is: %s (it takes CAP_SYS_NICE)",
			strerror(errno));
	if (prctl(PR_SET_TIMERSLACK, 1000ul, 0ul, 0ul, 0ul) != 0)
		log_line(CONFIG_LOG_DEBUG, "timers stay coarse: %s", strerror(errno));
	cores = (int)sysconf(_SC_NPROCESSORS_ONLN);
	e->spin_us = config->spin_us;
	e->idle_spin_us = config->spin_us == CONFIG_AUTO ? SPIN_US_MANY : config->spin_us;
	if (e->spin_us == CONFIG_AUTO)
		e->spin_us = cores <= SPIN_CORES_FEW ? 0 : SPIN_US_MANY;
	e->app_spin_us = config->app_spin_us != CONFIG_AUTO ? config->app_spin_us : e->spin_us;
}

static int descriptors_open(struct engine *e, struct config_error *err)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	e->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	e->doorbell_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	e->wake_epoll = epoll_create1(EPOLL_CLOEXEC);
	e->side_epoll = epoll_create1(EPOLL_CLOEXEC);
	e->waker = waker_create();
	if (e->waker != NULL && e->signal_fd >= 0 && e->doorbell_fd >= 0 && e->wake_epoll >= 0 &&
		e->side_epoll >= 0)
		return 0;
	snprintf(err->text, sizeof(err->text), "no descriptors: %s", strerror(errno));
	return -EMFILE;
}

static int descriptors_watch(struct engine *e, struct config_error *err)
{
	int rc = 0;

	for (unsigned i = 0; i < e->ports.count && rc == 0; i++) {
		/* The loop is filled by nobody but us: it need not wake us. */
		if (e->ports.device[i]->wait_fd < 0 && i != e->ports.loop)
			e->must_poll = true;
		rc = epoll_watch(e->wake_epoll, e->ports.device[i]->wait_fd, WAKE_DEVICE);
	}
	rc = rc != 0 ? rc : epoll_watch(e->wake_epoll, e->doorbell_fd, WAKE_DOORBELL);
	rc = rc != 0 ? rc : epoll_watch(e->wake_epoll, e->side_epoll, WAKE_SIDE);
	rc = rc != 0 ? rc : epoll_watch(e->side_epoll, e->signal_fd, WAKE_SIGNAL);
	rc = rc != 0 ? rc : epoll_watch(e->side_epoll, control_fd(e->ctl), WAKE_CONTROL);
	rc = rc != 0 ? rc : epoll_watch(e->side_epoll, e->ports.link_listen_fd, WAKE_LINK);
	if (e->prom != NULL)
		rc = rc != 0 ? rc : epoll_watch(e->side_epoll, prometheus_fd(e->prom), WAKE_PROMETHEUS);
	if (rc != 0)
		snprintf(err->text, sizeof(err->text), "cannot wait for events: %s", strerror(-rc));
	return rc;
}

static void ready_tell(const struct engine *e, int ready_fd)
{
	const struct config *config = e->config;

	printf("ready: ");
	for (unsigned i = 0; i < config->address_count; i++) {
		char text[INET_ADDRSTRLEN];
		const struct config_address *a = &config->address[i];

		inet_ntop(AF_INET, &a->addr, text, sizeof(text));
		printf("%s%s/%u on %s", i > 0 ? ", " : "", text, a->prefix_len,
			e->ports.device[a->device]->name);
	}
	printf("; applications attach at %s\n", config->socket);
	fflush(stdout);
	if (ready_fd >= 0) {
		if (write(ready_fd, "\n", 1) != 1)
			log_line(
				CONFIG_LOG_WARNING, "nobody reads the ready descriptor: %s", strerror(errno));
		close(ready_fd);
	}
}

/* Everything is reset and taken down; the resets still go out. */
static void engine_stop(struct engine *e)
{
	if (e->prom != NULL)
		prometheus_close(e->prom);
	if (e->ctl != NULL) {
		struct control *ctl = e->ctl;
		uint64_t end_us;

		e->ctl = NULL; /* nobody is woken any more */
		control_destroy(ctl);
		end_us = clock_us() + SHUTDOWN_POLL_US;
		for (unsigned quiet = 0; quiet < 16 && clock_us() < end_us;)
			quiet = datapath_poll(e->dp, clock_us()) > 0 ? 0 : quiet + 1;
	}
	if (e->dp != NULL)
		datapath_destroy(e->dp);
	if (e->copy != NULL)
		e->copy->ops->close(e->copy);
	waker_destroy(e->waker);
	ports_close(&e->ports);
	const int fds[] = {e->doorbell_fd, e->signal_fd, e->wake_epoll, e->side_epoll};
	for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
		if (fds[i] >= 0)
			close(fds[i]);
}

int engine_run(const struct config *config, int ready_fd, struct config_error *err)
{
	struct engine e = {
		.config = config, .doorbell_fd = -1, .signal_fd = -1, .wake_epoll = -1, .side_epoll = -1};
	char reason[256] = "";
	int rc;

	e.ports.link_listen_fd = -1;
	e.ports.link_fd = -1;
	thread_place(&e);
	rc = descriptors_open(&e, err);
	if (rc == 0)
		rc = ports_open(&e.ports, config, err);
	if (rc == 0)
		rc = datapath_start(&e, err);
	if (rc == 0)
		rc = control_start(&e, err);
	if (rc == 0 && strcmp(config->prometheus, "off") != 0 && config->prometheus[0] != '\0') {
		rc = prometheus_open(config->prometheus, prometheus_page, &e, &e.prom, reason);
		if (rc != 0)
			snprintf(err->text, sizeof(err->text), "%s", reason);
	}
	if (rc == 0)
		rc = descriptors_watch(&e, err);
	if (rc == 0) {
		ready_tell(&e, ready_fd);
		engine_loop(&e);
		log_line(CONFIG_LOG_INFO, "stopping");
	}
	engine_stop(&e);
	return rc;
}
