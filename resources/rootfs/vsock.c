// Joins standard input and output to a vsock stream, which busybox cannot.
// usage: vsock connect CID PORT | vsock listen PORT
//
// The end of its input shuts the sending half down; the program ends when the peer has done the same.

#include <linux/vm_sockets.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static unsigned number(const char *text) {
    char *end;
    unsigned long value = strtoul(text, &end, 0);
    if (*text == '\0' || *end != '\0' || value > 0xffffffffUL) {
        fprintf(stderr, "vsock: '%s' is not a number\n", text);
        exit(2);
    }
    return (unsigned)value;
}

static int connected(unsigned cid, unsigned port) {
    struct sockaddr_vm address = {.svm_family = AF_VSOCK, .svm_cid = cid, .svm_port = port};
    int stream = socket(AF_VSOCK, SOCK_STREAM, 0);
    if (stream < 0) fail("vsock: socket");
    if (connect(stream, (struct sockaddr *)&address, sizeof address) < 0) fail("vsock: connect");
    return stream;
}

static int accepted(unsigned port) {
    struct sockaddr_vm address = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = port};
    int listener = socket(AF_VSOCK, SOCK_STREAM, 0);
    if (listener < 0) fail("vsock: socket");
    if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0) fail("vsock: bind");
    if (listen(listener, 1) < 0) fail("vsock: listen");
    int stream = accept(listener, NULL, NULL);
    if (stream < 0) fail("vsock: accept");
    close(listener);
    return stream;
}

static void copy(int from, int to) {
    char buffer[65536];
    ssize_t length, part;
    while ((length = read(from, buffer, sizeof buffer)) > 0)
        for (ssize_t done = 0; done < length; done += part)
            if ((part = write(to, buffer + done, (size_t)(length - done))) < 0) fail("vsock: write");
    if (length < 0) fail("vsock: read");
}

int main(int count, char **word) {
    int stream;
    if (count == 4 && strcmp(word[1], "connect") == 0)
        stream = connected(number(word[2]), number(word[3]));
    else if (count == 3 && strcmp(word[1], "listen") == 0)
        stream = accepted(number(word[2]));
    else {
        fputs("usage: vsock connect CID PORT | vsock listen PORT\n", stderr);
        return 2;
    }
    // A process for each direction, so that neither waits for the other.
    pid_t sender = fork();
    if (sender < 0) fail("vsock: fork");
    if (sender == 0) {
        copy(STDIN_FILENO, stream);
        shutdown(stream, SHUT_WR);
        return 0;
    }
    copy(stream, STDOUT_FILENO);
    int status;
    if (waitpid(sender, &status, 0) < 0) fail("vsock: wait");
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
