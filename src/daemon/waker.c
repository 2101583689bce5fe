/* SPDX-License-Identifier: BSD-3-Clause */
/* See waker.h. The words are written by one side each; the thread touches no other state. */
#include "daemon/waker.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/uio.h>
#include <unistd.h>

#include "core/platform.h"

#define LOOK_MS 100

struct waker {
	pthread_t thread;
	int stop_fd;
	/* written by waker_wake() */
	uint32_t number; /* odd while a write is under way */
	uint32_t fd;
	/* written by the thread */
	uint32_t freed; /* the number of the write it freed last */
};

/* RWF_NOWAIT: whoever emptied it before us must not make us wait in turn. */
static void counter_empty(int fd)
{
	uint64_t count;
	struct iovec iov = {.iov_base = &count, .iov_len = sizeof(count)};

	if (preadv2(fd, &iov, 1, -1, RWF_NOWAIT) < 0)
		return; /* it is empty, and the write has gone on */
}

static void *watch(void *arg)
{
	struct waker *w = arg;
	struct pollfd stop = {.fd = w->stop_fd, .events = POLLIN};
	uint32_t before = 0;

	while (poll(&stop, 1, LOOK_MS) == 0) {
		uint32_t number = load_acquire32(&w->number);

		if ((number & 1u) && number == before) {
			store_release32(&w->freed, number);
			counter_empty((int)load_relaxed32(&w->fd));
		}
		before = number;
	}
	return NULL;
}

struct waker *waker_create(void)
{
	struct waker *w = calloc(1, sizeof(*w));
	sigset_t all, old;
	int rc;

	if (w == NULL)
		return NULL;
	w->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (w->stop_fd < 0) {
		free(w);
		return NULL;
	}
	sigfillset(&all); /* signals are the engine's */
	pthread_sigmask(SIG_SETMASK, &all, &old);
	rc = pthread_create(&w->thread, NULL, watch, w);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (rc != 0) {
		close(w->stop_fd);
		free(w);
		return NULL;
	}
	return w;
}

void waker_destroy(struct waker *w)
{
	if (w == NULL)
		return;
	eventfd_write(w->stop_fd, 1);
	pthread_join(w->thread, NULL);
	close(w->stop_fd);
	free(w);
}

int waker_wake(struct waker *w, int fd)
{
	const uint64_t one = 1;
	uint32_t number = w->number + 1u;
	int rc;

	store_relaxed32(&w->fd, (uint32_t)fd);
	store_release32(&w->number, number);
	rc = write(fd, &one, sizeof(one)) < 0 ? -errno : 0;
	store_release32(&w->number, number + 1u);
	return load_acquire32(&w->freed) == number ? -EDEADLK : rc;
}
