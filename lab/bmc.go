package lab

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"mainstay/fence/falsebmc"
)

// One process plays the BMCs of all hosts. It works in the machine's own
// namespaces, where hosts are started and ended, but its listening sockets were
// made in the namespace of the BMCs, on each one's address:
//
//	https://ADDRESS and http://ADDRESS   Redfish
//	bmc.sock, a file of the lab          PUT /HOST: how that BMC misbehaves
//
// When a host's power is cut its BMC's address is taken out of the namespace;
// that is all it takes for the BMC to be dead.

// switchOf is a host's power switch, as its BMC sees it.
type switchOf struct {
	lab  *Lab
	host string
}

// State implements falsebmc.Power.
func (s switchOf) State(context.Context) (bool, error) { return s.lab.Powered(s.host) }

// Off implements falsebmc.Power.
func (s switchOf) Off(ctx context.Context) error {
	_, err := s.lab.PowerOff(ctx, s.host)
	return err
}

// On implements falsebmc.Power.
func (s switchOf) On(ctx context.Context) error {
	_, err := s.lab.Start(ctx, s.host)
	return err
}

// daemon is the BMC process as it wrote itself down.
type daemon struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // tells it from a later process of that number
}

// readyFD is where BMCDaemon says that it listens, when it was started by Up.
const readyFD = 3

// BMCDaemon plays the BMCs of a lab until ctx ends. Up starts it as
//
//	os.Executable() lab bmc NAME
//
// so every program that calls Up must, when called like that, call BMCDaemon and
// nothing else.
func BMCDaemon(ctx context.Context, name string) error {
	if err := bmcDaemon(ctx, name); err != nil {
		return fmt.Errorf("BMCs of lab %s: %w", name, err)
	}
	return nil
}

func bmcDaemon(ctx context.Context, name string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l, err := Open(name)
	if err != nil {
		return err
	}
	if l.Closing {
		return errors.New("the lab is being taken down")
	}
	// Down reads bmc.json after it has written Closing: one of us sees the other.
	only, err := os.OpenFile(l.Path("bmc.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer only.Close()
	if err := unix.Flock(int(only.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("another process plays them: %w", err)
	}
	self, err := stat(os.Getpid())
	if err != nil {
		return err
	}
	if err := writeJSON(l.Path("bmc.json"), daemon{os.Getpid(), self.start}); err != nil {
		return err
	}
	if l, err = Open(name); err != nil {
		return err
	}
	if l.Closing {
		return errors.New("the lab is being taken down")
	}

	cert, err := l.certificate()
	if err != nil {
		return err
	}
	var watchers sync.WaitGroup
	defer watchers.Wait()
	defer cancel()
	var servers []*http.Server
	failed := make(chan error, 2*len(l.Hosts)+1)
	serve := func(s *http.Server, listener net.Listener) {
		servers = append(servers, s)
		go func() { failed <- s.Serve(listener) }()
	}
	defer func() {
		for _, s := range servers {
			s.Close()
		}
	}()
	admin := http.NewServeMux()
	for _, m := range l.Hosts {
		faults := &falsebmc.Faults{}
		admin.Handle("/"+m.Name, faults)
		bmc := falsebmc.New(falsebmc.Config{
			UUID: m.UUID, User: m.BMC.User, Password: m.BMC.Password,
			Power: switchOf{l, m.Name}, Faults: faults,
		})
		defer bmc.Close()
		watchers.Go(func() { l.watch(ctx, m) })
		for _, port := range []int{80, 443} {
			listener, err := l.listen(ctx, net.JoinHostPort(m.BMC.Address.String(), strconv.Itoa(port)))
			if err != nil {
				return err
			}
			if port == 443 {
				listener = tls.NewListener(listener, &tls.Config{Certificates: []tls.Certificate{cert}})
			}
			serve(&http.Server{Handler: bmc, ReadHeaderTimeout: 10 * time.Second, ErrorLog: log.New(io.Discard, "", 0)}, listener)
		}
	}
	if err := os.Remove(l.Path("bmc.sock")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	listener, err := net.Listen("unix", l.Path("bmc.sock"))
	if err != nil {
		return err
	}
	serve(&http.Server{Handler: admin, ReadHeaderTimeout: 10 * time.Second}, listener)

	if os.Getenv("MAINSTAY_LAB_READY") != "" {
		ready := os.NewFile(readyFD, "ready")
		if _, err := ready.WriteString("ready\n"); err != nil {
			return fmt.Errorf("tell that it listens: %w", err)
		}
		ready.Close()
	}
	select {
	case <-ctx.Done():
		return nil
	case err := <-failed:
		return err
	}
}

// listen listens in the BMCs' namespace, also on an address that is not there
// now because its host has no power.
func (l *Lab) listen(ctx context.Context, address string) (net.Listener, error) {
	freebind := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		return errors.Join(c.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_FREEBIND, 1)
		}), err)
	}}
	var out net.Listener
	err := inNetns(l.netns(bmcHost), func() (err error) {
		out, err = freebind.Listen(ctx, "tcp", address)
		return err
	})
	return out, err
}

// certificate makes the BMCs' common certificate, signed by itself, or reads it.
func (l *Lab) certificate() (tls.Certificate, error) {
	crt, key := l.Path("bmc.crt"), l.Path("bmc.key")
	if pair, err := tls.LoadX509KeyPair(crt, key); err == nil {
		return pair, nil
	}
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	t := x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		Subject:      pkix.Name{CommonName: "BMCs of lab " + l.Name},
		NotBefore:    time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(10, 0, 0),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true, IsCA: true,
	}
	for _, m := range l.Hosts {
		t.IPAddresses = append(t.IPAddresses, m.BMC.Address.AsSlice())
		t.DNSNames = append(t.DNSNames, "bmc-"+m.Name)
	}
	der, err := x509.CreateCertificate(rand.Reader, &t, &t, &private.PublicKey, private)
	if err != nil {
		return tls.Certificate{}, err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return tls.Certificate{}, err
	}
	err = errors.Join(
		os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), 0o600),
		os.WriteFile(crt, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644))
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.LoadX509KeyPair(crt, key)
}

// bmcProcess returns the process that plays the BMCs, or nil.
func (l *Lab) bmcProcess() (*process, error) {
	var d daemon
	if err := readJSON(l.Path("bmc.json"), &d); err != nil || d.PID == 0 {
		return nil, err
	}
	p, err := openProcess(d.PID)
	if p == nil || err != nil {
		return nil, err
	}
	s, err := stat(d.PID)
	if same := err == nil && s.start == d.Start && s.state != 'Z'; !same || p.ended(0) {
		p.close()
		return nil, nil
	}
	return p, nil
}

// startBMC starts the daemon, if there is none, and returns when it listens.
func (l *Lab) startBMC(ctx context.Context) error {
	p, err := l.bmcProcess()
	if err != nil {
		return err
	}
	if p != nil {
		p.close()
		return nil
	}
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	out, err := os.OpenFile(l.Path("bmc.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	// --fork: it outlives us and is nobody's child.
	cmd := command(ctx, "setsid", "--fork", exe, "lab", "bmc", l.Name)
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = out, out
	cmd.ExtraFiles = []*os.File{w} // readyFD
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(e string) bool {
		return strings.HasPrefix(e, "NOTIFY_SOCKET=")
	}), "MAINSTAY_LAB_READY=1")
	err = cmd.Run()
	w.Close()
	if err != nil {
		return fmt.Errorf("start the BMCs: %w", cause(ctx, err))
	}
	if err := r.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return fmt.Errorf("start the BMCs: %w", err)
	}
	if said, err := io.ReadAll(r); err != nil || string(said) != "ready\n" {
		log, _ := os.ReadFile(l.Path("bmc.log"))
		return fmt.Errorf("start the BMCs (%s lab bmc %s): they do not listen: %s", exe, l.Name, bytes.TrimSpace(log))
	}
	return nil
}

// stopBMC ends the daemon. It may be in the middle of a deed; Down undoes that.
func (l *Lab) stopBMC(ctx context.Context) error {
	p, err := l.bmcProcess()
	if err != nil {
		return err
	}
	if p != nil {
		defer p.close()
		if err := p.signal(unix.SIGKILL); err != nil {
			return err
		}
		err := waitFor(ctx, patience, "the BMCs to end", func() (bool, error) { return p.ended(0), nil })
		if err != nil {
			return err
		}
	}
	// One that is only just starting has the lock, sees Closing, and ends.
	unlock, err := hold(ctx, l.Path("bmc.lock"))
	if err != nil {
		return err
	}
	unlock()
	return nil
}

// BMCFault makes a host's BMC misbehave from now on; the zero Fault makes it
// honest again.
func (l *Lab) BMCFault(ctx context.Context, host string, fault falsebmc.Fault) (Deed, error) {
	text, err := json.Marshal(fault)
	if err != nil {
		return Deed{}, err
	}
	return l.do("bmc", host, []string{string(text)}, func(*Deed) error {
		if _, err := l.powered(host); err != nil {
			return err
		}
		transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", l.Path("bmc.sock"))
		}}
		defer transport.CloseIdleConnections()
		req, err := http.NewRequestWithContext(ctx, http.MethodPut, "http://bmc/"+host, bytes.NewReader(text))
		if err != nil {
			return err
		}
		resp, err := (&http.Client{Transport: transport}).Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			said, _ := io.ReadAll(io.LimitReader(resp.Body, 1000))
			return fmt.Errorf("%s: %s", resp.Status, bytes.TrimSpace(said))
		}
		return nil
	})
}
