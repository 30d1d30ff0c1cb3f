// The first and only process of the emulated machine: runs the programs named in /programs one after the other, reports
// each exit status on the serial port, and powers off.
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

static int run(char* program) {
  const pid_t child = fork();
  if (child == 0) {
    execl(program, program, (char*)NULL);
    perror(program);
    _exit(127);
  }
  int status = 0;
  if (child < 0 || waitpid(child, &status, 0) < 0) return 127;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int main(void) {
  mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
  mount("proc", "/proc", "proc", 0, NULL);
  const int serial = open("/dev/ttyS0", O_RDWR);
  if (serial >= 0) {
    for (int fd = 0; fd < 3; ++fd) dup2(serial, fd);
  }
  setenv("PATH", "/usr/bin:/bin", 1);
  setenv("HOME", "/tmp", 1);
  setenv("TMPDIR", "/tmp", 1);
  setenv("GLADIUS_TEST_SMALL", "1", 1);
  setenv("OMP_NUM_THREADS", "1", 1);

  FILE* list = fopen("/programs", "r");
  char line[4096];
  while (list != NULL && fgets(line, sizeof line, list) != NULL) {
    line[strcspn(line, "\n")] = '\0';
    printf("\nemulation: running %s\n", line);
    fflush(stdout);
    printf("emulation: %s exited with %d\n", line, run(line));
    fflush(stdout);
  }
  printf("emulation: end\n");
  fflush(stdout);
  tcdrain(STDOUT_FILENO);  // or the last lines would be lost
  reboot(RB_POWER_OFF);
  return 0;
}
