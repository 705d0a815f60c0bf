package proxy

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// startPeers starts the gateway and the proxies that are installed.
func startPeers(b *testing.B, dir, server string) []*peer {
	wanted := os.Getenv("BENCH_PEERS") // names with commas between, or empty for all
	var peers []*peer
	// Earlier builds of this program, to compare with.
	for program := range strings.SplitSeq(os.Args[0]+","+os.Getenv("BENCH_BUILDS"), ",") {
		if program == "" {
			continue
		}
		p := newPeer(b, "gantry")
		if len(peers) > 0 {
			p.name = filepath.Base(program)
		}
		p.pid = startChild(b, program, fmt.Sprintf("gateway,%s,%s,%s,%s", p.plain, p.secure, server, dir))
		awaitPort(b, p.plain)
		peers = append(peers, p)
	}
	for _, other := range []struct {
		name  string
		start func(*testing.B, *peer, string, string) *exec.Cmd
		how   string
	}{
		{"nginx", nginx, "apt-get install nginx-light"},
		{"haproxy", haproxy, "apt-get install haproxy"},
		{"caddy", caddy, "script/peers caddy"},
	} {
		if wanted != "" && !strings.Contains(","+wanted+",", ","+other.name+",") {
			continue
		}
		if _, err := exec.LookPath(other.name); err != nil {
			b.Logf("%s is not installed: no comparison with it (%s)", other.name, other.how)
			continue
		}
		p := newPeer(b, other.name)
		command := other.start(b, p, dir, server)
		startCommand(b, command)
		awaitPort(b, p.plain)
		p.pid = command.Process.Pid
		peers = append(peers, p)
	}
	return peers
}

func newPeer(b *testing.B, name string) *peer {
	return &peer{name: name, plain: freeAddress(b), secure: freeAddress(b), results: map[string]*result{}}
}

func nginx(b *testing.B, p *peer, dir, server string) *exec.Cmd {
	config := fmt.Sprintf(`
worker_processes 1; daemon off; pid %[1]s/nginx.pid; error_log %[1]s/nginx-error.log;
worker_rlimit_nofile 20000; events { worker_connections 19000; }
http {
  access_log %[1]s/nginx.log combined buffer=32k flush=100ms; keepalive_requests 100000000;
  upstream server { server %[2]s; keepalive 64; keepalive_requests 100000000; }
  proxy_buffers 8 32k; proxy_buffer_size 32k; proxy_busy_buffers_size 128k; proxy_max_temp_file_size 0; # room for 100 KB
  client_body_temp_path %[1]s/b; proxy_temp_path %[1]s/p; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
  server {
    listen %[3]s; listen %[4]s ssl; server_name %[5]s;
    ssl_certificate %[1]s/pair.pem; ssl_certificate_key %[1]s/pair.pem; ssl_protocols TLSv1.3;
    ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
    location / {
      proxy_pass http://server; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; proxy_set_header X-Forwarded-Proto $scheme;
    }
  }
}`, dir, server, p.plain, p.secure, benchHost)
	file := filepath.Join(dir, "nginx.conf")
	write(b, file, config)
	return onOneCore("nginx", "-p", dir, "-c", file)
}

func haproxy(b *testing.B, p *peer, dir, server string) *exec.Cmd {
	config := fmt.Sprintf(`
global
  nbthread 1
  log stdout format raw local0
  ssl-default-bind-ciphersuites TLS_AES_128_GCM_SHA256
defaults
  mode http
  log global
  option httplog
  timeout connect 2s
  timeout client 60s
  timeout server 60s
  option forwardfor
frontend in
  bind %[3]s
  bind %[4]s ssl crt %[1]s/pair.pem
  http-request set-header X-Forwarded-Proto %%[ssl_fc,iif(https,http)]
  use_backend server if { hdr(host) -i %[5]s }
backend server
  http-reuse always
  server s %[2]s`, dir, server, p.plain, p.secure, benchHost)
	file := filepath.Join(dir, "haproxy.cfg")
	write(b, file, config+"\n")
	command := onOneCore("haproxy", "-db", "-f", file)
	log, err := os.Create(filepath.Join(dir, "haproxy.log"))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { log.Close() })
	command.Stdout = log
	return command
}

// onOneCore keeps a program on the first core.
func onOneCore(name string, arguments ...string) *exec.Cmd { return onCore(0, name, arguments...) }

func onCore(core int, name string, arguments ...string) *exec.Cmd {
	return exec.Command("taskset", append([]string{"-c", strconv.Itoa(core), name}, arguments...)...)
}

// caddy serves plain HTTP: as a slow proxy it takes part in one workload.
func caddy(b *testing.B, p *peer, dir, server string) *exec.Cmd {
	p.slow, p.secure = true, ""
	file := filepath.Join(dir, "Caddyfile")
	write(b, file, fmt.Sprintf(`{
	admin off
	auto_https off
	storage file_system %[1]s/caddy
	metrics
}
http://%[2]s:%[3]s {
	log {
		output file %[1]s/caddy.log {
			roll_disabled
		}
		format json
	}
	reverse_proxy %[4]s {
		transport http {
			keepalive_idle_conns_per_host 64
		}
	}
}
`, dir, benchHost, portOf(p.plain), server))
	return onOneCore("caddy", "run", "--config", file, "--adapter", "caddyfile")
}

func portOf(address string) string {
	_, port, _ := net.SplitHostPort(address)
	return port
}

// startLoad starts the clients and the backend.
func startLoad(b *testing.B, server string) *loader {
	command := onCore(1, os.Args[0])
	command.Env = append(os.Environ(), benchRole+"=load,"+server)
	command.Stderr = os.Stderr
	in, errIn := command.StdinPipe()
	out, errOut := command.StdoutPipe()
	if err := errors.Join(errIn, errOut); err != nil {
		b.Fatal(err)
	}
	startCommand(b, command)
	return &loader{json.NewEncoder(in), json.NewDecoder(out)}
}

// startChild starts this program, or another build of it, in another part on the first core.
func startChild(b *testing.B, program, role string) int {
	command := onOneCore(program)
	command.Env = append(os.Environ(), benchRole+"="+role)
	command.Stderr = os.Stderr
	startCommand(b, command)
	return command.Process.Pid
}

func startCommand(b *testing.B, command *exec.Cmd) {
	if err := command.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		command.Process.Signal(syscall.SIGTERM)
		command.Wait()
	})
}

// family is a process and its children, which come when they like.
func family(pid int) []int {
	pids := []int{pid}
	children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	for _, child := range strings.Fields(string(children)) {
		if n, err := strconv.Atoi(child); err == nil {
			pids = append(pids, n)
		}
	}
	return pids
}

func freeAddress(b *testing.B) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func awaitPort(b *testing.B, address string) {
	for deadline := time.Now().Add(10 * time.Second); ; {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
			return
		}
		if time.Now().After(deadline) {
			b.Fatal(err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func write(b *testing.B, path, text string) {
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
}

// writePair writes a certificate and its key.
func writePair(b *testing.B, path string) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{benchHost}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		b.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		b.Fatal(err)
	}
	file, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	defer file.Close()
	pem.Encode(io.Writer(file), &pem.Block{Type: "CERTIFICATE", Bytes: der})
	pem.Encode(file, &pem.Block{Type: "PRIVATE KEY", Bytes: private})
}
