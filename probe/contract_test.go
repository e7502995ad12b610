package probe

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mainstay/fleet"
)

// The contract: each row of Probes tells apart, against real servers, what it
// says it can. A new row needs one entry in talks.

// talk is how a server of one kind behaves on a connection.
type talk struct {
	good, bad func(conn net.Conn)
	// deaf: the check puts no question, so silence and hangs look good to it.
	deaf bool
}

var talks = map[string]talk{
	"tcp": {good: func(net.Conn) {}, deaf: true},
	"http": {
		good: answerHTTP("200 OK"),
		bad:  answerHTTP("500 Internal Server Error"),
	},
	"memcached": {
		good: answerLine("VERSION 1.6.18\r\n"),
		bad:  answerLine("ERROR\r\n"),
	},
}

func answerHTTP(status string) func(net.Conn) {
	return func(conn net.Conn) {
		if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
			fmt.Fprintf(conn, "HTTP/1.1 %s\r\nContent-Length: 2\r\n\r\nok", status)
		}
	}
}

func answerLine(line string) func(net.Conn) {
	return func(conn net.Conn) {
		if _, err := bufio.NewReader(conn).ReadString('\n'); err == nil {
			_, _ = io.WriteString(conn, line)
		}
	}
}

// patience is long enough for any answer that will come; impatience is the
// deadline where none will.
const patience, impatience = 30 * time.Second, 150 * time.Millisecond

// serve answers connections until the test ends.
func serve(t *testing.T, answer func(net.Conn)) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go accept(l, answer)
	return l.Addr().(*net.TCPAddr).AddrPort()
}

func accept(l net.Listener, answer func(net.Conn)) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			answer(conn)
		}()
	}
}

func TestContract(t *testing.T) {
	for _, row := range Probes() {
		t.Run(row.Name, func(t *testing.T) {
			talk, ok := talks[row.Name]
			if !ok {
				t.Fatalf("check %s has no server: add one to talks, so that its answers are tested", row.Name)
			}
			contract(t, row.Name, talk)
		})
	}
}

func contract(t *testing.T, name string, talk talk) {
	probe := func(t *testing.T, to netip.AddrPort, deadline time.Duration) Result {
		t.Helper()
		r, err := Probe(t.Context(), to.Addr(), fleet.Check{Kind: name, Port: int(to.Port()), Deadline: deadline})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	expect := func(t *testing.T, got Result, want Kind) {
		t.Helper()
		if got.Kind != want || got.OK != (want == Answered) || got.OK != (got.Why == "") {
			t.Errorf("got %+v, want %s", got, want)
		}
	}
	// hangs is what the row should make of a server that never answers.
	hangs, wait := Timeout, impatience
	if talk.deaf {
		hangs, wait = Answered, patience
	}

	t.Run("answers", func(t *testing.T) {
		expect(t, probe(t, serve(t, talk.good), patience), Answered)
	})
	t.Run("answers slowly", func(t *testing.T) {
		to := serve(t, func(conn net.Conn) {
			time.Sleep(20 * time.Millisecond) // the server's slowness, not the test's
			talk.good(conn)
		})
		expect(t, probe(t, to, patience), Answered)
	})
	t.Run("answers too late", func(t *testing.T) {
		end := make(chan struct{})
		t.Cleanup(func() { close(end) })
		to := serve(t, func(conn net.Conn) {
			<-end
			talk.good(conn)
		})
		expect(t, probe(t, to, wait), hangs)
	})
	t.Run("accepts nothing", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		expect(t, probe(t, l.Addr().(*net.TCPAddr).AddrPort(), wait), hangs)
	})
	t.Run("its queue is full", func(t *testing.T) {
		expect(t, probe(t, full(t), impatience), Timeout)
	})
	t.Run("nobody listens", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
		expect(t, probe(t, l.Addr().(*net.TCPAddr).AddrPort(), patience), Refused)
	})
	t.Run("the caller leaves", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		r, err := Probe(ctx, netip.MustParseAddr("127.0.0.1"), fleet.Check{Kind: name, Port: l.Addr().(*net.TCPAddr).Port, Deadline: patience})
		if err != nil {
			t.Fatal(err)
		}
		expect(t, r, Timeout)
	})
	t.Run("stopped, and continued", func(t *testing.T) {
		c := child(t, "serve-"+name)
		expect(t, probe(t, c.at, patience), Answered)
		c.stop(t)
		expect(t, probe(t, c.at, wait), hangs)
		c.signal(t, syscall.SIGCONT)
		expect(t, probe(t, c.at, patience), Answered)
	})
	if talk.deaf {
		return
	}
	t.Run("answers badly", func(t *testing.T) {
		expect(t, probe(t, serve(t, talk.bad), patience), Bad)
	})
	t.Run("closes at once", func(t *testing.T) {
		expect(t, probe(t, serve(t, func(net.Conn) {}), patience), Bad)
	})
	t.Run("talks nonsense", func(t *testing.T) {
		expect(t, probe(t, serve(t, answerLine("SSH-2.0-OpenSSH_9.2\r\n")), patience), Bad)
	})
	t.Run("talks for ever", func(t *testing.T) {
		to := serve(t, func(conn net.Conn) {
			for {
				if _, err := io.WriteString(conn, "x"); err != nil {
					return
				}
			}
		})
		expect(t, probe(t, to, patience), Bad)
	})
}

// full returns the address of a listener whose queue takes nothing more: what a
// process looks like some time after it was stopped.
func full(t *testing.T) netip.AddrPort {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	to := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(name.(*unix.SockaddrInet4).Port))
	for range 16 {
		conn, err := net.DialTimeout("tcp", to.String(), 500*time.Millisecond)
		if err != nil {
			return to
		}
		t.Cleanup(func() { conn.Close() })
	}
	t.Fatal("a queue of length 0 took 16 connections")
	return to
}

func TestHTTPExpectations(t *testing.T) {
	tests := []struct {
		answer string
		expect []int
		want   Kind
	}{
		{"300 Multiple Choices", nil, Answered}, // Keystone's GET /
		{"401 Unauthorized", nil, Answered},
		{"503 Service Unavailable", nil, Bad},
		{"300 Multiple Choices", []int{200, 300}, Answered},
		{"404 Not Found", []int{200, 300}, Bad},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprint(tt.answer, tt.expect), func(t *testing.T) {
			to := serve(t, answerHTTP(tt.answer))
			r, err := Probe(t.Context(), to.Addr(), fleet.Check{Kind: "http", Port: int(to.Port()), Path: "/v3", Expect: tt.expect, Deadline: patience})
			if err != nil || r.Kind != tt.want {
				t.Fatalf("got %+v, %v; want %s", r, err, tt.want)
			}
			if r.Kind == Bad && !strings.Contains(r.Why, tt.answer) {
				t.Errorf("why does not say %q: %s", tt.answer, r.Why)
			}
		})
	}
	t.Run("a long body", func(t *testing.T) {
		to := serve(t, func(conn net.Conn) {
			if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
				_, _ = fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", 4*most, strings.Repeat("x", 4*most))
			}
		})
		r, err := Probe(t.Context(), to.Addr(), fleet.Check{Kind: "http", Port: int(to.Port()), Deadline: patience})
		if err != nil || !r.OK {
			t.Fatalf("got %+v, %v", r, err)
		}
	})
	t.Run("hangs in the body", func(t *testing.T) {
		end := make(chan struct{})
		t.Cleanup(func() { close(end) })
		to := serve(t, func(conn net.Conn) {
			if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
				_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
			}
			<-end
		})
		r, err := Probe(t.Context(), to.Addr(), fleet.Check{Kind: "http", Port: int(to.Port()), Deadline: impatience})
		if err != nil || r.Kind != Timeout {
			t.Fatalf("got %+v, %v", r, err)
		}
	})
}

func TestNoSuchCheck(t *testing.T) {
	for _, check := range []fleet.Check{{Kind: "htttp", Port: 80}, {Kind: "tcp"}, {Kind: "tcp", Port: 70000}} {
		if r, err := Probe(t.Context(), netip.MustParseAddr("127.0.0.1"), check); err == nil {
			t.Errorf("%+v gave %+v", check, r)
		}
	}
}

// A child is this test binary once more, in another role, so that there is a
// process of our own to stop.

const role = "MAINSTAY_PROBE_CHILD"

func TestMain(m *testing.M) {
	switch as := os.Getenv(role); {
	case as == "":
		os.Exit(m.Run())
	case as == "spin":
		fmt.Println("127.0.0.1:1") // it serves nothing
		for {
		}
	case strings.HasPrefix(as, "serve-"):
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println(l.Addr())
		accept(l, talks[strings.TrimPrefix(as, "serve-")].good)
	}
}

type process struct {
	cmd *exec.Cmd
	at  netip.AddrPort
}

func child(t *testing.T, as string) process {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), role+"="+as)
	cmd.Stderr = os.Stderr
	// A test run that is killed takes its children with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it says "killed", as it should
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the child said nothing: %v", err)
	}
	return process{cmd, netip.MustParseAddrPort(strings.TrimSpace(line))}
}

func (p process) signal(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// stop sends SIGSTOP and returns when the process has stopped.
func (p process) stop(t *testing.T) {
	t.Helper()
	p.signal(t, syscall.SIGSTOP)
	if err := unix.Waitid(unix.P_PID, p.cmd.Process.Pid, nil, unix.WSTOPPED|unix.WNOWAIT, nil); err != nil {
		t.Fatal(err)
	}
}
