package harness

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
)

// Programs are the built binaries.
type Programs struct{ Dir string }

// Build builds the programs into dir.
func Build(ctx context.Context, root, dir string) (Programs, error) {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", dir+"/", "./cmd/...")
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return Programs{}, fmt.Errorf("go build: %w\n%s", err, out)
	}
	return Programs{Dir: dir}, nil
}

// Path of a program: global-cp, zone-cp, zone-dp or meridianctl.
func (p Programs) Path(name string) string { return filepath.Join(p.Dir, name) }

// Root is the repository's root: the nearest folder above the present one with a go.mod.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("no go.mod above the working directory")
		}
	}
}

// Envoy is the path of the Envoy to run; it fetches nothing. The error says what to do.
func Envoy(ctx context.Context, root string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(root, "tools", "envoy.sh"), "--find")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s (or run: make envoy)", strings.TrimSpace(stderr.String()))
	}
	return strings.TrimSpace(string(out)), nil
}

// drawn is the last port that FreePort has tried. A port is the machine's, so what was handed out is known to the
// whole process: who was given one has not yet listened on it when the next is asked for.
var drawn = struct {
	sync.Mutex
	port int
}{port: firstPort + rand.IntN(ports)}

const firstPort, ports = 20_000, 12_000

// FreePort is a TCP port of 127.0.0.1 that nothing listens on at this moment: preferred if that is free, else
// one below the range that the system hands out to clients, so that it is still free after a restart. Those come
// round after thousands of others.
func FreePort(preferred int) (int, error) {
	if preferred != 0 && free(preferred) {
		return preferred, nil
	}
	drawn.Lock()
	defer drawn.Unlock()
	for range 100 {
		drawn.port = firstPort + (drawn.port-firstPort+7)%ports // other processes count from elsewhere
		if free(drawn.port) {
			return drawn.port, nil
		}
	}
	return 0, fmt.Errorf("no free port between %d and %d", firstPort, firstPort+ports)
}

func free(port int) bool {
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return false
	}
	return l.Close() == nil
}
