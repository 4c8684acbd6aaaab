// Command bench measures Warren next to what it could have been built from:
// wireguard-go with its own tun/netstack, and tsnet. Each contender is a hub and
// two spokes inside this one process, over UDP on loopback, at an inner MTU of 1280.
//
// The contenders take turns: every round measures every contender, so that a
// machine that slows down slows all of them. What is printed is the median over
// the rounds, the least and the most, and the median of the per-round ratios to
// Warren. Warren's figures are with its policy in the path, at the hub and at
// both spokes; tsnet filters too; wireguard-go's netstack filters nothing.
//
// Only Warren carries packets from spoke to spoke inside the hub. What is built
// on the other two relays with a TCP proxy on the hub, so that is what they do here.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"time"
)

func main() {
	rounds := flag.Int("rounds", 5, "how often each figure is taken")
	length := flag.Duration("length", 1500*time.Millisecond, "how long each transfer is measured")
	only := flag.String("only", "", "comma-separated contenders: warren, netstack, tsnet")
	match := flag.String("figure", "", "only the figures whose name contains this")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *rounds, *length, *only, *match); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, rounds int, length time.Duration, only, match string) error {
	wanted := slices.DeleteFunc(slices.Clone(figures), func(f figure) bool { return !strings.Contains(f.name, match) })
	if len(wanted) == 0 {
		return fmt.Errorf("no figure contains %q", match)
	}
	var pairs []*contender
	for _, start := range []struct {
		name string
		open func(context.Context) (*contender, error)
	}{{"warren", openWarren}, {"netstack", openNetstack}, {"tsnet", openTSNet}} {
		if only != "" && !slices.Contains(strings.Split(only, ","), start.name) {
			continue
		}
		c, err := start.open(ctx)
		if err != nil {
			return fmt.Errorf("starting %s: %w", start.name, err)
		}
		defer c.close()
		c.name = start.name
		if err := c.serve(); err != nil {
			return fmt.Errorf("starting %s: %w", start.name, err)
		}
		pairs = append(pairs, c)
	}
	if len(pairs) == 0 {
		return fmt.Errorf("no contender is named %q", only)
	}
	fmt.Printf("%s, %d CPUs, %s, %d rounds of %v\n", runtime.Version(), runtime.NumCPU(), cpuModel(), rounds, length)
	results := make(map[string]map[string][]sample) // figure, contender
	for round := range rounds {
		for _, f := range wanted {
			for i := range pairs {
				c := pairs[(i+round)%len(pairs)] // nobody always goes first
				s, err := f.measure(ctx, c, length)
				if err != nil {
					return fmt.Errorf("measuring %s of %s: %w", f.name, c.name, err)
				}
				if results[f.name] == nil {
					results[f.name] = make(map[string][]sample)
				}
				results[f.name][c.name] = append(results[f.name][c.name], s)
			}
		}
		fmt.Fprintf(os.Stderr, "round %d of %d done\n", round+1, rounds)
	}
	report(wanted, pairs, results)
	return nil
}

// sample is one measurement. cpu is the processor time of the whole process,
// both ends, that one unit took; 0 where that says nothing.
type sample struct{ value, cpu float64 }

// report prints a table for each figure.
func report(wanted []figure, pairs []*contender, results map[string]map[string][]sample) {
	for _, f := range wanted {
		fmt.Printf("\n%s\n", f.name)
		for _, c := range pairs {
			got := results[f.name][c.name]
			values, cpus, ratios := make([]float64, 0, len(got)), make([]float64, 0, len(got)), make([]float64, 0, len(got))
			for i, s := range got {
				values, cpus = append(values, s.value), append(cpus, s.cpu)
				if w := results[f.name]["warren"]; len(w) > i {
					ratios = append(ratios, w[i].value/s.value)
				}
			}
			fmt.Printf("  %-9s %8.2f %s  (%.2f to %.2f)", c.name, median(values), f.unit, slices.Min(values), slices.Max(values))
			if f.cpuUnit != "" {
				fmt.Printf("  %6.2f %s", median(cpus), f.cpuUnit)
			}
			if c.name != "warren" && len(ratios) > 0 {
				fmt.Printf("  warren is %.2f of it", median(ratios))
			}
			fmt.Println()
		}
	}
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}

// cpuModel is what /proc/cpuinfo calls the processor.
func cpuModel() string {
	text, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}
