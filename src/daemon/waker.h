/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Wakes applications through their eventfds without being held up by one. An application has the same open
 * file as we: it can take O_NONBLOCK away and fill the counter, and our write would wait for ever. So a
 * thread looks ten times a second whether a write still waits; it empties the counter, and the application is
 * told on.
 */
#ifndef DAEMON_WAKER_H
#define DAEMON_WAKER_H

struct waker;

/* NULL when there is no thread to be had. */
struct waker *waker_create(void);
void waker_destroy(struct waker *w); /* NULL is allowed */

/*
 * Writes the eventfd; one thread at a time. 0; -EAGAIN: the counter is full, so it is awake already;
 * -EDEADLK: the application made the write wait (for 0.3 s at most); or another negative errno.
 */
int waker_wake(struct waker *w, int fd);

#endif
