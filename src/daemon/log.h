/* SPDX-License-Identifier: BSD-3-Clause */
/* The daemon's log: one line an event, lower case, the fact first, rate-limited. Any caller, one thread. */
#ifndef DAEMON_LOG_H
#define DAEMON_LOG_H

#include "daemon/config.h"

/* to: "stderr", "syslog" or a file. 0 or a negative errno. Before it, lines go to stderr. */
int log_open(const char *to, enum config_log_level level);
/* Opens a log file again under its name (after rotation). */
void log_reopen(void);
void log_line(enum config_log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
