// Program health answers the gRPC health service on port 9090 until a file
// /tmp/sick exists: then it says that it does not serve.
package main

import (
	"log"
	"net"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

func main() {
	if len(os.Args) == 2 { // `health sick` makes the running program sick
		if err := os.WriteFile("/tmp/"+os.Args[1], nil, 0o644); err != nil {
			log.Fatal(err)
		}
		return
	}
	l, err := net.Listen("tcp", ":9090")
	if err != nil {
		log.Fatal(err)
	}
	service := health.NewServer()
	service.SetServingStatus("ready", healthpb.HealthCheckResponse_SERVING)
	go func() {
		for {
			status := healthpb.HealthCheckResponse_SERVING
			if _, err := os.Stat("/tmp/sick"); err == nil {
				status = healthpb.HealthCheckResponse_NOT_SERVING
			}
			service.SetServingStatus("alive", status)
			time.Sleep(20 * time.Millisecond)
		}
	}()
	server := grpc.NewServer()
	healthpb.RegisterHealthServer(server, service)
	log.Fatal(server.Serve(l))
}
