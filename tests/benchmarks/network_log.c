/* Loaded into a process by LD_PRELOAD: writes to the file $NETWORK_LOG which names it looks up and which addresses it calls.

It sees what any library asks of the C library: names by getaddrinfo and gethostbyname, addresses by connect and sendto. It
does not see a library that makes system calls itself, nor one that brings a C library of its own.
*/
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define REAL(name, ...) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))(__VA_ARGS__)

static void log_line(const char *what, const char *who) {
    char line[512];
    const char *path = getenv("NETWORK_LOG");
    int length = snprintf(line, sizeof line, "%s %s\n", what, who ? who : "");
    int file = path ? open(path, O_WRONLY | O_CREAT | O_APPEND, 0600) : -1;
    if (file < 0 || write(file, line, length) != length) abort();
    close(file);
}

static void log_address(const char *what, const struct sockaddr *address) {
    char text[INET6_ADDRSTRLEN] = "";
    if (address && address->sa_family == AF_INET)
        inet_ntop(AF_INET, &((const struct sockaddr_in *)address)->sin_addr, text, sizeof text);
    else if (address && address->sa_family == AF_INET6)
        inet_ntop(AF_INET6, &((const struct sockaddr_in6 *)address)->sin6_addr, text, sizeof text);
    else
        return;
    log_line(what, text);
}

int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
    log_line("getaddrinfo", name);
    return REAL(getaddrinfo, name, service, hints, found);
}

struct hostent *gethostbyname(const char *name) {
    log_line("gethostbyname", name);
    return REAL(gethostbyname, name);
}

int gethostbyname_r(const char *name, struct hostent *host, char *buffer, size_t size, struct hostent **found, int *error) {
    log_line("gethostbyname_r", name);
    return REAL(gethostbyname_r, name, host, buffer, size, found, error);
}

int connect(int file, const struct sockaddr *address, socklen_t length) {
    log_address("connect", address);
    return REAL(connect, file, address, length);
}

ssize_t sendto(int file, const void *data, size_t size, int flags, const struct sockaddr *address, socklen_t length) {
    log_address("sendto", address);
    return REAL(sendto, file, data, size, flags, address, length);
}
