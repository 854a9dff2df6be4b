package zonedp

import (
	"fmt"
	"net"
	"syscall"
)

func processAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// claimPort keeps other proxies that start on this machine at the same moment from a port until Envoy listens on
// it. An abstract socket is such a claim: it leaves no file, and goes with its process.
func claimPort(port int) (release func(), ok bool) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: fmt.Sprintf("@meridian-admin-%d", port), Net: "unix"})
	if err != nil {
		return nil, false
	}
	return func() { _ = l.Close() }, true
}
