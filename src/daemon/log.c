/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Writes log lines to stderr, syslog or a file. A bucket of tokens bounds the rate (bursts of 50 lines, then
 * 10 a second), so that nothing a peer or an application does can fill a disk; what was left out is told as a
 * number. Called on the engine's thread; a file or pipe that is slow may delay it, so nothing is logged per
 * packet anywhere.
 */
#include "daemon/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <syslog.h>
#include <time.h>

#include "core/platform.h"

#define LOG_BURST      50u
#define LOG_PER_SECOND 10u

static struct {
	enum config_log_level level;
	bool to_syslog;
	char path[CONFIG_TEXT_MAX];
	FILE *file; /* NULL: stderr */
	uint64_t tokens, refilled_us, left_out;
} state = {.level = CONFIG_LOG_INFO, .tokens = LOG_BURST};

int log_open(const char *to, enum config_log_level level)
{
	state.level = level;
	if (strcmp(to, "stderr") == 0)
		return 0;
	if (strcmp(to, "syslog") == 0) {
		openlog("flextoed", LOG_PID, LOG_DAEMON);
		state.to_syslog = true;
		return 0;
	}
	state.file = fopen(to, "ae");
	if (state.file == NULL)
		return -errno;
	snprintf(state.path, sizeof(state.path), "%s", to);
	return 0;
}

void log_reopen(void)
{
	FILE *file = state.path[0] != '\0' ? fopen(state.path, "ae") : NULL;

	if (file == NULL)
		return;
	fclose(state.file);
	state.file = file;
}

static bool token_take(void)
{
	uint64_t now = clock_us();
	uint64_t fresh = (now - state.refilled_us) * LOG_PER_SECOND / 1000000u;

	if (fresh > 0) {
		state.tokens = state.tokens + fresh < LOG_BURST ? state.tokens + fresh : LOG_BURST;
		state.refilled_us = now;
	}
	if (state.tokens == 0)
		return false;
	state.tokens--;
	return true;
}

static void emit(enum config_log_level level, const char *text)
{
	static const int priority[] = {LOG_ERR, LOG_WARNING, LOG_INFO, LOG_DEBUG};
	static const char *const word[] = {"error", "warning", "info", "debug"};
	FILE *out = state.file != NULL ? state.file : stderr;
	struct timespec ts;
	struct tm tm;
	char stamp[32];

	if (state.to_syslog) {
		syslog(priority[level], "%s", text);
		return;
	}
	clock_gettime(CLOCK_REALTIME, &ts);
	localtime_r(&ts.tv_sec, &tm);
	strftime(stamp, sizeof(stamp), "%H:%M:%S", &tm);
	fprintf(out, "%s.%03ld flextoed %s: %s\n", stamp, ts.tv_nsec / 1000000, word[level], text);
	fflush(out);
}

void log_line(enum config_log_level level, const char *format, ...)
{
	char text[512];
	va_list ap;

	if (level > state.level)
		return;
	if (!token_take()) {
		state.left_out++;
		return;
	}
	if (state.left_out > 0) {
		snprintf(text, sizeof(text), "%llu lines left out: too many at once",
			(unsigned long long)state.left_out);
		state.left_out = 0;
		emit(CONFIG_LOG_WARNING, text);
	}
	va_start(ap, format);
	vsnprintf(text, sizeof(text), format, ap);
	va_end(ap);
	/* An application's name may be in it: no control characters reach a terminal. */
	for (char *c = text; *c != '\0'; c++)
		if ((unsigned char)*c < ' ' || *c == 0x7f)
			*c = '?';
	emit(level, text);
}
