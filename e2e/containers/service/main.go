// Command service is what runs in the containers of a mesh beside a proxy: the sample service, and one that only
// tries to reach others.
//
//	service serve PORT SERVICE ZONE VERSION [URL]   answers on PORT, and calls URL for each request
//	service reach HOST:PORT                         status 0 if a connection opens within 1 s
//	service call URL                                status 0 if a sample service answers within 1 s
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/meridian-mesh/meridian/e2e/sample"
)

// patience with an address that does not answer.
const patience = time.Second

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	switch {
	case len(args) >= 5 && len(args) <= 6 && args[0] == "serve":
		s := sample.Service{Service: args[2], Zone: args[3], Version: args[4]}
		if len(args) == 6 {
			s.Calls = args[5]
		}
		l, err := net.Listen("tcp", ":"+args[1])
		if err != nil {
			return err
		}
		return s.Serve(ctx, l)
	case len(args) == 2 && args[0] == "reach":
		c, err := (&net.Dialer{Timeout: patience}).DialContext(ctx, "tcp", args[1])
		if err != nil {
			return err
		}
		return c.Close()
	case len(args) == 2 && args[0] == "call":
		a, err := sample.Call(ctx, &http.Client{Timeout: patience}, args[1])
		if err != nil {
			return err
		}
		return json.NewEncoder(os.Stdout).Encode(a)
	default:
		return errors.New("usage: service serve PORT SERVICE ZONE VERSION [URL] | service reach HOST:PORT | service call URL")
	}
}
