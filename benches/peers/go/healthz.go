// Command healthz serves /healthz with Go's net/http and three checks, with the texts of the Kubernetes
// handler. The benches `cost` and `latency` measure it. It prints its address and serves until its standard input ends.
package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"
)

var beat atomic.Int64

func fresh() error {
	if time.Since(time.Unix(0, beat.Load())) > time.Hour {
		return fmt.Errorf("overdue")
	}
	return nil
}

func main() {
	beat.Store(time.Now().UnixNano())
	names := []string{"ping", "log", "syncloop"}
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, r *http.Request) {
		query := r.URL.Query()
		var lines strings.Builder
		failed := false
		for _, name := range names {
			if err := fresh(); err != nil {
				fmt.Fprintf(&lines, "[-]%s failed: reason withheld\n", name)
				failed = true
				continue
			}
			fmt.Fprintf(&lines, "[+]%s ok\n", name)
		}
		if failed {
			http.Error(w, lines.String()+"healthz check failed", http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		if _, found := query["verbose"]; found {
			fmt.Fprintf(w, "%shealthz check passed\n", lines.String())
			return
		}
		fmt.Fprint(w, "ok")
	})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(listener.Addr())
	go func() {
		io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	fmt.Fprintln(os.Stderr, http.Serve(listener, mux))
	os.Exit(1)
}
