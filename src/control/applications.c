/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Applications: a region and contexts each, and the end of both. The region is a memfd of fixed size (sealed,
 * so that the application cannot shrink it under the data path) with the context areas at its start and
 * buffers behind them. An application ends when its control channel hangs up, or when it broke the rules:
 *
 *   CLOSING   endpoints and handshakes go at once; its connections are reset, as many in a round as fit into
 * the ring to the data path. Those it had closed in order get a moment to finish DRAINING  no connection is
 * left; contexts and region are withdrawn from the data path, and freed when it has done everything that was
 * queued
 *
 * Control plane's thread; control_wake_fd() alone may be called from others.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "control/state.h"

#define GRACE_US   500000u /* for connections that were closed in order */
#define BEGIN_US   2000u   /* for what the application put on its rings just before its end */
#define DRAIN_US   20000u
#define TRIM_BATCH 16u

#define AREA_SIZE   sizeof(struct flextoe_context_area)
#define AREAS_BYTES (FLEXTOE_CONTEXTS_MAX * AREA_SIZE)

int apps_init(struct control *ctl)
{
	ctl->apps_closing = INDEX_NONE;
	ctl->guard_faults = region_guard_faults();
	ctl->apps = array_reserve(ctl->apps_max, sizeof(*ctl->apps));
	ctl->contexts = array_reserve(ctl->contexts_max, sizeof(*ctl->contexts));
	return ctl->apps && ctl->contexts ? 0 : -ENOMEM;
}

static void app_memory_free(struct app *app)
{
	region_guard_remove(app->guard);
	app->guard = REGION_GUARD_NONE;
	if (app->region)
		munmap(app->region, app->region_size);
	if (app->region_fd >= 0)
		close(app->region_fd);
	app_buffers_free(&app->buffers);
	app->region = NULL;
	app->region_fd = -1;
}

static void context_free(struct context *context)
{
	int fd = context->wake_fd;

	context->used = false;
	__atomic_store_n(&context->wake_fd, -1, __ATOMIC_RELEASE);
	if (fd >= 0)
		close(fd);
}

void apps_free(struct control *ctl)
{
	if (ctl->apps && ctl->contexts) {
		for (uint32_t i = 0; i < ctl->apps_high;
			i++) /* the data path may still use a region: it stays mapped */
			if (ctl->apps[i].state != APP_FREE) {
				ctl->apps[i].region = NULL;
				app_memory_free(&ctl->apps[i]);
			}
		for (uint32_t i = 0; i < ctl->contexts_max; i++)
			if (ctl->contexts[i].used)
				context_free(&ctl->contexts[i]);
	}
	array_release(ctl->apps, ctl->apps_max, sizeof(*ctl->apps));
	array_release(ctl->contexts, ctl->contexts_max, sizeof(*ctl->contexts));
}

static int region_fd_create(const char *name, uint64_t size, bool hugepages)
{
	int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | (hugepages ? MFD_HUGETLB : 0));
	int r;

	if (fd < 0)
		return -errno;
	/* Hugepages are taken now: one that is missing later would be a SIGBUS in the data path. */
	if (ftruncate(fd, (off_t)size) < 0 || (hugepages && fallocate(fd, 0, 0, (off_t)size) < 0) ||
		fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0) {
		r = -errno;
		close(fd);
		return r;
	}
	return fd;
}

/* Makes and maps the region. */
static int region_create(struct control *ctl, struct app *app, bool memfd)
{
	int fd = -1, flags = MAP_NORESERVE;
	bool huge = memfd && ctl->config.hugepages;
	void *p;

	if (huge) {
		fd = region_fd_create("flextoe", app->region_size, true);
		if (fd < 0) {
			huge = false;
			control_log(ctl,
				"no hugepages for the region of %s (%llu MiB: settings hugepages and region, "
				"/proc/sys/vm/nr_hugepages): %s; with ordinary pages the first touch of each "
				"4 KiB costs a page fault",
				app->name, (unsigned long long)(app->region_size >> 20), strerror(-fd));
		}
	}
	if (memfd && fd < 0) {
		fd = region_fd_create("flextoe", app->region_size, false);
		if (fd < 0)
			return fd;
	}
	flags |= memfd ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS;
	p = mmap(NULL, app->region_size, PROT_READ | PROT_WRITE, flags, fd, 0);
	if (p == MAP_FAILED) {
		int r = -errno;

		if (fd >= 0)
			close(fd);
		return r;
	}
	app->region = p;
	app->region_fd = fd;
	app->guard = region_guard_add(p, app->region_size);
	/* hugepages stay: one given back might be missing when it is wanted again */
	app_buffers_init(&app->buffers, huge ? -1 : fd, huge ? NULL : p, AREAS_BYTES, app->region_size);
	return 0;
}

/* 0 and the application, or -ENOSPC, -ENOMEM. */
int app_create(
	struct control *ctl, const char *name, uint32_t pid, uint32_t uid, bool memfd, struct app **out)
{
	struct ctl_region record = {.type = CTL_REGION};
	struct app *app;
	uint32_t i;
	int r;

	if (ctl->quitting)
		return -ENOSPC;
	for (i = 0; i < ctl->apps_max; i++)
		if (ctl->apps[i].state == APP_FREE)
			break;
	if (i == ctl->apps_max)
		return -ENOSPC;
	app = &ctl->apps[i];
	memset(app, 0, sizeof(*app));
	app->guard = REGION_GUARD_NONE;
	app->number = (uint16_t)i;
	app->pid = pid;
	app->uid = uid;
	snprintf(app->name, sizeof(app->name), "%s", name);
	app->region_size = ctl->config.region_size;
	app->conn_head = app->endpoint_head = app->member_head = app->handshake_head = app->cursor =
		app->next_closing = INDEX_NONE;
	for (unsigned k = 0; k < FLEXTOE_CONTEXTS_MAX; k++)
		app->contexts[k] = INDEX_NONE;
	r = region_create(ctl, app, memfd);
	if (r < 0)
		return r;
	record.app = i;
	record.base = app->region;
	record.size = app->region_size;
	r = datapath_ctl(ctl->dp, &record, sizeof(record));
	if (r < 0) {
		app_memory_free(app);
		return -ENOMEM;
	}
	app->state = APP_ALIVE;
	if (i >= ctl->apps_high)
		ctl->apps_high = i + 1u;
	COUNT(ctl, apps_registered);
	*out = app;
	return 0;
}

/* Adds a context; *number is the application's own number of it. */
int app_context_add(struct control *ctl, struct app *app, uint32_t *number)
{
	struct ctl_context record = {.type = CTL_CONTEXT, .app = app->number};
	struct context *context;
	uint32_t index, n;
	int r;

	for (n = 0; n < FLEXTOE_CONTEXTS_MAX; n++)
		if (app->contexts[n] == INDEX_NONE)
			break;
	for (index = 0; index < ctl->contexts_max; index++)
		if (!ctl->contexts[index].used)
			break;
	if (app->state != APP_ALIVE || n == FLEXTOE_CONTEXTS_MAX || index == ctl->contexts_max)
		return -ENOSPC;
	context = &ctl->contexts[index];
	context->area = (void *)(app->region + n * AREA_SIZE);
	if (madvise(context->area, AREA_SIZE, MADV_POPULATE_WRITE) < 0 && errno != EINVAL)
		return -ENOMEM;
	context->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (context->wake_fd < 0)
		return -errno;
	context->app = app->number;
	context->number = (uint16_t)n;
	context->connect_options = (struct socket_options){0};
	context->used = true;
	record.context = (uint16_t)index;
	record.area = context->area;
	r = datapath_ctl(ctl->dp, &record, sizeof(record));
	if (r < 0) {
		context_free(context);
		return r;
	}
	app->contexts[n] = index;
	app->context_count++;
	*number = n;
	return 0;
}

/* Begins the end. close_now: also what was closed in order is reset at once. */
void app_close(struct control *ctl, struct app *app, bool close_now)
{
	if (app->state != APP_ALIVE)
		return;
	app->state = APP_CLOSING;
	app->close_now = close_now;
	app->pass_done = app->grace_over = false;
	app->cursor = app->conn_head;
	app->begin_us = ctl->now_us + (close_now ? 0 : BEGIN_US);
	app->grace_us = ctl->now_us + GRACE_US;
	app->next_closing = ctl->apps_closing;
	ctl->apps_closing = app->number;
	if (app->client)
		app->client->app = INDEX_NONE;
	app->client = NULL;
	COUNT(ctl, apps_gone);
	while (app->member_head != INDEX_NONE) {
		uint32_t endpoint = ctl->members[app->member_head].endpoint;

		member_leave(ctl, app->member_head);
		endpoint_settle(ctl, endpoint);
	}
	while (app->endpoint_head != INDEX_NONE) {
		uint32_t endpoint = app->endpoint_head;

		endpoint_disown(ctl, endpoint);
		endpoint_settle(ctl, endpoint);
	}
	while (app->handshake_head != INDEX_NONE)
		handshake_drop(ctl, app->handshake_head);
}

/* It broke the rules, or its memory did: everything of it goes at once. */
static void app_put_out(struct control *ctl, struct app *app, const char *reason)
{
	control_log(ctl, "application %s (pid %u) put out: %s", app->name, app->pid, reason);
	for (unsigned n = 0; n < FLEXTOE_CONTEXTS_MAX; n++) {
		uint32_t index = app->contexts[n];

		if (index == INDEX_NONE)
			continue;
		store_release32(&ctl->contexts[index].area->words.context_dead, 1);
		if (ctl->config.wake)
			ctl->config.wake(ctl->config.wake_arg, ctl->contexts[index].wake_fd);
		else
			eventfd_write(ctl->contexts[index].wake_fd, 1);
	}
	if (app->client)
		shutdown(app->client->fd, SHUT_RDWR);
	app_close(ctl, app, true);
}

/* The data path has given a context up: the whole application is put out. */
void app_broken(struct control *ctl, const struct exc_broken *exc)
{
	char reason[sizeof(exc->reason) + 1];

	if (exc->app >= ctl->apps_max || ctl->apps[exc->app].state != APP_ALIVE)
		return;
	snprintf(reason, sizeof(reason), "%.*s", (int)sizeof(exc->reason), exc->reason);
	app_put_out(ctl, &ctl->apps[exc->app], reason);
}

/* Regions that lost their memory since the last look. */
static void apps_guard(struct control *ctl)
{
	uint32_t faults = region_guard_faults();

	if (likely(faults == ctl->guard_faults))
		return;
	ctl->guard_faults = faults;
	for (uint32_t i = 0; i < ctl->apps_high; i++)
		if (ctl->apps[i].state == APP_ALIVE && region_guard_broken(ctl->apps[i].guard))
			app_put_out(ctl, &ctl->apps[i], "a page of its region is not to be had");
}

/* One pass over its connections; the next begins when grace is over. */
static void app_reset_conns(struct control *ctl, struct app *app)
{
	bool grace = !app->close_now && ctl->now_us < app->grace_us;

	if (ctl->now_us < app->begin_us)
		return;
	if (app->pass_done && !grace && !app->grace_over) {
		app->pass_done = false;
		app->cursor = app->conn_head;
	}
	if (!grace && !app->pass_done)
		app->grace_over = true;
	while (!app->pass_done) {
		uint32_t index = app->cursor;
		struct control_conn *c;

		if (index == INDEX_NONE) {
			app->pass_done = true;
			return;
		}
		if (!ctl_has_room(ctl))
			return;
		c = &ctl->conns[index];
		app->cursor = c->app_next;
		if (c->flags & CTLCONN_RELEASED && grace)
			continue;
		if (!(c->flags & (CTLCONN_DEAD | CTLCONN_RESET))) {
			COUNT(ctl, app_conns_reset);
			conn_reset(ctl, index, ECONNRESET);
		}
		conn_give_up(ctl, index);
	}
}

/* Nothing names its contexts and its region any more. */
static void app_withdraw(struct control *ctl, struct app *app)
{
	struct ctl_region region = {.type = CTL_REGION, .app = app->number};

	for (unsigned n = 0; n < FLEXTOE_CONTEXTS_MAX; n++) {
		struct ctl_context record = {.type = CTL_CONTEXT, .app = app->number};

		if (app->contexts[n] == INDEX_NONE)
			continue;
		record.context = (uint16_t)app->contexts[n];
		datapath_ctl(ctl->dp, &record, sizeof(record));
	}
	datapath_ctl(ctl->dp, &region, sizeof(region));
	app->state = APP_DRAINING;
	app->drained_us = ctl->now_us + DRAIN_US;
}

static void app_finish(struct control *ctl, struct app *app)
{
	for (unsigned n = 0; n < FLEXTOE_CONTEXTS_MAX; n++)
		if (app->contexts[n] != INDEX_NONE)
			context_free(&ctl->contexts[app->contexts[n]]);
	app_memory_free(app);
	app->state = APP_FREE;
}

void apps_step(struct control *ctl)
{
	uint32_t *link = &ctl->apps_closing;

	apps_guard(ctl);
	while (*link != INDEX_NONE) {
		struct app *app = &ctl->apps[*link];

		if (app->state == APP_CLOSING) {
			app_reset_conns(ctl, app);
			if (!app->conn_count && ctl_has_room(ctl))
				app_withdraw(ctl, app);
		} else if (ctl->now_us >= app->drained_us && datapath_ctl_drained(ctl->dp)) {
			*link = app->next_closing;
			app_finish(ctl, app);
			continue;
		}
		link = &app->next_closing;
	}
	for (uint32_t i = 0; i < ctl->apps_high; i++)
		if (ctl->apps[i].state == APP_ALIVE && ctl->apps[i].buffers.warm_bytes > BUFFERS_KEEP_BYTES)
			app_buffers_trim(&ctl->apps[i].buffers, TRIM_BATCH);
}

uint64_t apps_next_us(const struct control *ctl)
{
	if (ctl->apps_closing != INDEX_NONE)
		return ctl->now_us + TIMER_TICK_US;
	for (uint32_t i = 0; i < ctl->apps_high; i++)
		if (ctl->apps[i].state == APP_ALIVE && ctl->apps[i].buffers.warm_bytes > BUFFERS_KEEP_BYTES)
			return ctl->now_us + TIMER_TICK_US;
	return UINT64_MAX;
}

void control_quit(struct control *ctl)
{
	ctl->quitting = true;
	for (uint32_t i = 0; i < ctl->apps_high; i++)
		app_close(ctl, &ctl->apps[i], true);
	for (uint32_t i = 0; i < ctl->endpoints_high; i++) {
		ctl->endpoints[i].holds = 0;
		endpoint_settle(ctl, i);
	}
}

bool control_is_quiet(const struct control *ctl)
{
	return ctl->apps_closing == INDEX_NONE && ctl->endpoints_closing == INDEX_NONE &&
	       datapath_ctl_drained(ctl->dp);
}

int control_wake_fd(const struct control *ctl, uint32_t context)
{
	if (context >= ctl->contexts_max)
		return -1;
	return ctl->contexts[context].used
		       ? __atomic_load_n(&ctl->contexts[context].wake_fd, __ATOMIC_ACQUIRE)
		       : -1;
}

int control_app_open(struct control *ctl, const char *name, struct control_app_info *out)
{
	struct app *app;
	int r = app_create(ctl, name, (uint32_t)getpid(), (uint32_t)getuid(), false, &app);

	if (r < 0)
		return r;
	*out = (struct control_app_info){.app = app->number,
		.region = app->region,
		.region_fd = app->region_fd,
		.region_size = app->region_size};
	return 0;
}

int control_context_open(
	struct control *ctl, uint32_t app, uint32_t *number, uint64_t *area_offset, int *wake_fd)
{
	int r;

	if (app >= ctl->apps_max || ctl->apps[app].state != APP_ALIVE)
		return -EINVAL;
	r = app_context_add(ctl, &ctl->apps[app], number);
	if (r < 0)
		return r;
	*area_offset = *number * AREA_SIZE;
	*wake_fd = ctl->contexts[ctl->apps[app].contexts[*number]].wake_fd;
	return 0;
}

void control_app_close(struct control *ctl, uint32_t app)
{
	if (app < ctl->apps_max)
		app_close(ctl, &ctl->apps[app], false);
}
