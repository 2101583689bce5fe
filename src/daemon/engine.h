/* SPDX-License-Identifier: BSD-3-Clause */
/* The running engine: devices, data path and control plane bound together on one thread. */
#ifndef DAEMON_ENGINE_H
#define DAEMON_ENGINE_H

#include "daemon/config.h"

/*
 * Serves until SIGINT or SIGTERM. ready_fd: a byte is written there when applications may attach, -1 for
 * nobody. 0, or a negative errno when it could not start (err says why).
 */
int engine_run(const struct config *config, int ready_fd, struct config_error *err);

#endif
