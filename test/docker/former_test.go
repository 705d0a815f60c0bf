package docker

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/pkg/stdcopy"
)

// rawClient speaks to the socket as libraries do that are not moby's: docker-java, on which
// the plugins of Maven and Jenkins and Testcontainers for Java stand, docker-py and others.
type rawClient struct {
	t       *testing.T
	socket  string
	version string // of the API, "" asks without one
}

// request sends a request as it is written and returns the answer, with the connection in
// case it becomes one of bytes. A body goes in chunks, as docker-java sends it.
func (c rawClient) request(method, path, contentType string, body []byte) (*http.Response, net.Conn, *bufio.Reader) {
	c.t.Helper()
	conn, err := net.Dial("unix", c.socket)
	check(c.t, err)
	c.t.Cleanup(func() { conn.Close() })
	check(c.t, conn.SetDeadline(time.Now().Add(2*patience)))
	if c.version != "" {
		path = "/v" + c.version + path
	}
	var out bytes.Buffer
	fmt.Fprintf(&out, "%s %s HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n", method, path)
	if body != nil {
		fmt.Fprintf(&out, "Content-Type: %s\r\nTransfer-Encoding: chunked\r\n\r\n", contentType)
		for len(body) > 0 {
			n := min(len(body), 1000)
			fmt.Fprintf(&out, "%x\r\n%s\r\n", n, body[:n])
			body = body[n:]
		}
		out.WriteString("0\r\n\r\n")
	} else {
		out.WriteString("\r\n")
	}
	_, err = conn.Write(out.Bytes())
	check(c.t, err)
	in := bufio.NewReader(conn)
	resp, err := http.ReadResponse(in, &http.Request{Method: method})
	check(c.t, err)
	return resp, conn, in
}

// json sends JSON and reads the answer's, which must have the code.
func (c rawClient) json(method, path, body string, code int) map[string]any {
	c.t.Helper()
	var sent []byte
	if body != "" {
		sent = []byte(body)
	}
	resp, _, _ := c.request(method, path, "application/json", sent)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	check(c.t, err)
	if resp.StatusCode != code {
		c.t.Fatalf("%s %s: %s: %s", method, path, resp.Status, text)
	}
	var got map[string]any
	_ = json.Unmarshal(text, &got) // lists and nothing are not looked into
	return got
}

// formerClients drives a whole life of a container in each way that older and other
// clients have.
func formerClients(t *testing.T, e env) {
	for _, version := range []string{"", "1.24", "1.32", "1.40", "1.43"} {
		t.Run("version "+version, func(t *testing.T) {
			c := rawClient{t, filepath.Join(e.in.DataDir, "docker.sock"), version}
			life(t, c, e.image)
		})
	}
	c := rawClient{t, filepath.Join(e.in.DataDir, "docker.sock"), "1.23"}
	if got := c.json("GET", "/info", "", http.StatusBadRequest); !strings.Contains(fmt.Sprint(got["message"]), "too old") {
		t.Errorf("API 1.23: %v", got)
	}
}

// dockerJava is what docker-java sends for a container: every field that it has, null where
// nobody set it.
const dockerJava = `{"Hostname":null,"Domainname":null,"User":null,"AttachStdin":false,"AttachStdout":null,"AttachStderr":null,"PortSpecs":null,"Tty":false,
"OpenStdin":true,"StdinOnce":true,"Env":["A=1"],"Cmd":["sh","-c","echo from java $A; cat; echo bad >&2; exit 5"],"Healthcheck":null,"ArgsEscaped":null,"Entrypoint":null,
"Image":%q,"Volumes":{},"WorkingDir":null,"MacAddress":null,"OnBuild":null,"NetworkDisabled":null,"ExposedPorts":{"80/tcp":{}},"StopSignal":null,"StopTimeout":null,
"Labels":{"by":"java"},"Shell":null,"AuthConfig":null,"NetworkingConfig":null,
"HostConfig":{"Binds":[],"BlkioWeight":null,"BlkioWeightDevice":null,"BlkioDeviceReadBps":null,"BlkioDeviceWriteBps":null,"BlkioDeviceReadIOps":null,"BlkioDeviceWriteIOps":null,
"MemorySwappiness":null,"NanoCpus":null,"CapAdd":null,"CapDrop":null,"ContainerIDFile":null,"CpuPeriod":null,"CpuRealtimePeriod":null,"CpuRealtimeRuntime":null,"CpuShares":null,
"CpuQuota":null,"CpusetCpus":null,"CpusetMems":null,"Devices":null,"DeviceCgroupRules":null,"DeviceRequests":null,"DiskQuota":null,"Dns":null,"DnsOptions":null,"DnsSearch":null,
"ExtraHosts":null,"GroupAdd":null,"IpcMode":null,"Cgroup":null,"Links":[],"LogConfig":null,"LxcConf":null,"Memory":67108864,"MemorySwap":null,"MemoryReservation":null,
"KernelMemory":null,"NetworkMode":null,"OomKillDisable":null,"Init":null,"AutoRemove":null,"OomScoreAdj":null,"PortBindings":{"80/tcp":[{"HostIp":"","HostPort":""}]},
"Privileged":null,"PublishAllPorts":null,"ReadonlyRootfs":null,"RestartPolicy":null,"Ulimits":null,"CpuCount":null,"CpuPercent":null,"IOMaximumIOps":null,
"IOMaximumBandwidth":null,"VolumesFrom":null,"Mounts":null,"PidMode":null,"Isolation":null,"SecurityOpt":null,"StorageOpt":null,"CgroupParent":null,"VolumeDriver":null,
"ShmSize":null,"PidsLimit":null,"Runtime":null,"Tmpfs":null,"UTSMode":null,"UsernsMode":null,"Sysctls":null,"ConsoleSize":null,"CgroupnsMode":null}}`

func life(t *testing.T, c rawClient, image string) {
	id := fmt.Sprint(c.json("POST", "/containers/create?name=", fmt.Sprintf(dockerJava, image), http.StatusCreated)["Id"])
	defer c.json("DELETE", "/containers/"+id+"?force=1&v=1", "", http.StatusNoContent)

	// Attaching takes the connection over without being asked to upgrade it.
	resp, conn, in := c.request("POST", "/containers/"+id+"/attach?stdin=1&stdout=1&stderr=1&stream=1", "", nil)
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") == "" {
		t.Fatalf("attach: %s", resp.Status)
	}
	c.json("POST", "/containers/"+id+"/start", "", http.StatusNoContent)
	_, err := conn.Write([]byte("typed\n"))
	check(t, err)
	check(t, conn.(*net.UnixConn).CloseWrite())
	var out, said bytes.Buffer
	_, err = stdcopy.StdCopy(&out, &said, in)
	check(t, err)
	if out.String() != "from java 1\ntyped\n" || said.String() != "bad\n" {
		t.Errorf("attached: %q and %q", out.String(), said.String())
	}
	if got := c.json("POST", "/containers/"+id+"/wait", "", http.StatusOK); got["StatusCode"] != 5.0 {
		t.Errorf("waited: %v", got)
	}
	inspected := c.json("GET", "/containers/"+id+"/json", "", http.StatusOK)
	if state := inspected["State"].(map[string]any); state["Status"] != "exited" || state["ExitCode"] != 5.0 {
		t.Errorf("state %v", state)
	}
	resp, _, _ = c.request("GET", "/containers/"+id+"/logs?stdout=true&stderr=true&follow=false&timestamps=false", "", nil)
	out.Reset()
	_, err = stdcopy.StdCopy(&out, io.Discard, resp.Body)
	check(t, err)
	if !strings.HasPrefix(out.String(), "from java 1\n") {
		t.Errorf("logs %q", out.String())
	}
	filesInChunks(t, c, id)
	buildInChunks(t, c, image)
	commandWithoutUpgrade(t, c, image)
}

// filesInChunks copies an archive whose length was not told.
func filesInChunks(t *testing.T, c rawClient, id string) {
	archived, err := io.ReadAll(archive(t, "copied", strings.Repeat("x", 5000)))
	check(t, err)
	resp, _, _ := c.request("PUT", "/containers/"+id+"/archive?path=%2F&noOverwriteDirNonDir=false", "application/x-tar", archived)
	if resp.StatusCode != http.StatusOK {
		t.Errorf("copy: %s", resp.Status)
	}
	resp, _, _ = c.request("GET", "/containers/"+id+"/archive?path=%2Fcopied", "", nil)
	if n, err := io.Copy(io.Discard, resp.Body); err != nil || n < 5000 {
		t.Errorf("copied back: %d bytes, %v", n, err)
	}
}

// buildInChunks builds as the classic protocol has it.
func buildInChunks(t *testing.T, c rawClient, image string) {
	file, err := io.ReadAll(archive(t, "Dockerfile", "FROM "+image+"\nLABEL by=java\n"))
	check(t, err)
	tag := strings.ToLower("former-" + strings.ReplaceAll(c.version, ".", "-") + "x")
	resp, _, _ := c.request("POST", "/build?t="+tag+"&rm=true&forcerm=false&nocache=false&pull=false&q=false&buildargs=%7B%7D&labels=%7B%7D", "application/tar", file)
	text, err := io.ReadAll(resp.Body)
	check(t, err)
	if resp.StatusCode != http.StatusOK || !strings.Contains(string(text), "Successfully built") {
		t.Fatalf("build: %s: %s", resp.Status, text)
	}
	got := c.json("GET", "/images/"+tag+"/json", "", http.StatusOK)
	if labels := got["Config"].(map[string]any)["Labels"].(map[string]any); labels["by"] != "java" {
		t.Errorf("built with labels %v", labels)
	}
	c.json("DELETE", "/images/"+tag+"?force=true", "", http.StatusOK)
}

// commandWithoutUpgrade runs a command in a container. A single string is a command, too.
func commandWithoutUpgrade(t *testing.T, c rawClient, image string) {
	id := fmt.Sprint(c.json("POST", "/containers/create", fmt.Sprintf(`{"Image":%q,"Entrypoint":"sleep","Cmd":"1000"}`, image), http.StatusCreated)["Id"])
	defer c.json("DELETE", "/containers/"+id+"?force=1", "", http.StatusNoContent)
	c.json("POST", "/containers/"+id+"/start", "", http.StatusNoContent)
	x := fmt.Sprint(c.json("POST", "/containers/"+id+"/exec", `{"AttachStdin":true,"AttachStdout":true,"AttachStderr":true,"Tty":false,"Privileged":null,"User":null,"Cmd":["sh","-c","echo ran; cat; exit 6"],"Env":null}`, http.StatusCreated)["Id"])
	resp, conn, in := c.request("POST", "/exec/"+x+"/start", "application/json", []byte(`{"Detach":false,"Tty":false}`))
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("exec: %s", resp.Status)
	}
	_, err := conn.Write([]byte("typed\n"))
	check(t, err)
	check(t, conn.(*net.UnixConn).CloseWrite())
	var out bytes.Buffer
	_, err = stdcopy.StdCopy(&out, io.Discard, in)
	check(t, err)
	if got := c.json("GET", "/exec/"+x+"/json", "", http.StatusOK); out.String() != "ran\ntyped\n" || got["ExitCode"] != 6.0 {
		t.Errorf("exec said %q and ended with %v", out.String(), got["ExitCode"])
	}
}
