"""What the tests put into the testbed, as YAML; PLACE stands for the namespace."""

from __future__ import annotations

# Two web servers with a volume each, and a client, under the limits that a customer's namespace has.
SITE = """
apiVersion: v1
kind: Namespace
metadata: {name: PLACE, labels: {pod-security.kubernetes.io/enforce: restricted}}
---
apiVersion: v1
kind: ResourceQuota
metadata: {name: quota, namespace: PLACE}
spec: {hard: {pods: "4", requests.memory: 1Gi, persistentvolumeclaims: "4"}}
---
apiVersion: v1
kind: LimitRange
metadata: {name: limits, namespace: PLACE}
spec: {limits: [{type: Container, default: {cpu: 200m, memory: 64Mi}, defaultRequest: {cpu: 20m, memory: 32Mi}}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: PLACE}
spec: {clusterIP: None, publishNotReadyAddresses: true, selector: {app: web}, ports: [{name: http, port: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: site, namespace: PLACE}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: web, namespace: PLACE}
spec:
  serviceName: web
  replicas: 2
  podManagementPolicy: Parallel
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      securityContext:
        {runAsNonRoot: true, runAsUser: 1001, runAsGroup: 1001, fsGroup: 1001, seccompProfile: {type: RuntimeDefault}}
      containers:
        - name: web
          image: localhost/tools:testbed
          imagePullPolicy: Never
          command: [bash, -c]
          args:
            - |
              echo started >>/data/starts
              while :; do
                printf 'HTTP/1.1 200 OK\\r\\nConnection: close\\r\\n\\r\\n%s' "$HOSTNAME" | nc -lN -p 8080 >/dev/null
              done
          ports: [{containerPort: 8080}]
          readinessProbe: {exec: {command: [test, -s, /data/starts]}, periodSeconds: 1, timeoutSeconds: 5}
          securityContext:
            {allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}
          volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
    - metadata: {name: data}
      spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 100Mi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: PLACE, labels: {app: client}}
spec:
  terminationGracePeriodSeconds: 1
  securityContext: {runAsNonRoot: true, runAsUser: 1001, seccompProfile: {type: RuntimeDefault}}
  containers:
    - name: client
      image: localhost/tools:testbed
      imagePullPolicy: Never
      command: [sleep, infinity]
      securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
"""

ONLY_KNOWN_CLIENTS = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress]
  ingress: [{from: [{podSelector: {matchLabels: {known: "yes"}}}]}]
"""

ONLY_NAMES_OUT = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: client}
spec:
  podSelector: {matchLabels: {app: client}}
  policyTypes: [Egress]
  egress: [{ports: [{port: 53, protocol: UDP}, {port: 53, protocol: TCP}]}]
"""

# Nobody reaches anybody, but for the client the web servers: a web server's answer is no connection of its own.
ISOLATED = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: isolated}
spec: {podSelector: {}, policyTypes: [Ingress, Egress]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: in}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress]
  ingress: [{from: [{podSelector: {matchLabels: {app: client}}}]}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: out}
spec:
  podSelector: {matchLabels: {app: client}}
  policyTypes: [Egress]
  egress: [{to: [{podSelector: {matchLabels: {app: web}}}]}, {ports: [{port: 53, protocol: UDP}]}]
"""

PRIVILEGED = """
apiVersion: v1
kind: Pod
metadata: {name: privileged}
spec:
  containers:
    - {name: one, image: "localhost/tools:testbed", command: [sleep, infinity], securityContext: {privileged: true}}
"""

# As the engine's chart has it, cut down to one broker of one partition.
ENGINE = """
apiVersion: v1
kind: Namespace
metadata: {name: PLACE, labels: {pod-security.kubernetes.io/enforce: restricted}}
---
apiVersion: v1
kind: Service
metadata: {name: gateway, namespace: PLACE}
spec: {selector: {app: broker}, ports: [{name: gateway, port: 26500}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: broker, namespace: PLACE}
spec:
  serviceName: brokers
  replicas: 1
  selector: {matchLabels: {app: broker}}
  template:
    metadata: {labels: {app: broker}}
    spec:
      terminationGracePeriodSeconds: 5
      securityContext:
        {runAsNonRoot: true, runAsUser: 1001, runAsGroup: 1001, fsGroup: 1001, seccompProfile: {type: RuntimeDefault}}
      containers:
        - name: broker
          image: localhost/zeebe:VERSION
          imagePullPolicy: Never
          env:
            - {name: JAVA_TOOL_OPTIONS, value: "-Xmx256m -XX:+UseSerialGC -XX:TieredStopAtLevel=1"}
            - {name: ZEEBE_BROKER_NETWORK_HOST, value: 0.0.0.0}
            - {name: ZEEBE_BROKER_NETWORK_ADVERTISEDHOST, value: 127.0.0.1}
            - {name: ZEEBE_BROKER_GATEWAY_ENABLE, value: "true"}
            - {name: ZEEBE_BROKER_GATEWAY_SECURITY_ENABLED, value: "true"}
            - {name: ZEEBE_BROKER_GATEWAY_SECURITY_CERTIFICATECHAINPATH, value: /tls/tls.crt}
            - {name: ZEEBE_BROKER_GATEWAY_SECURITY_PRIVATEKEYPATH, value: /tls/tls.key}
            - {name: ZEEBE_LOG_APPENDER, value: Console}
          ports: [{name: gateway, containerPort: 26500}, {name: management, containerPort: 9600}]
          readinessProbe: {httpGet: {path: /ready, port: management}, periodSeconds: 1, timeoutSeconds: 2}
          resources: {requests: {cpu: 200m, memory: 512Mi}, limits: {memory: 1Gi}}
          securityContext:
            {allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}
          volumeMounts:
            - {name: data, mountPath: /usr/local/zeebe/data}
            - {name: scratch, mountPath: /tmp}
            - {name: tls, mountPath: /tls, readOnly: true}
      volumes: [{name: scratch, emptyDir: {}}, {name: tls, secret: {secretName: engine-tls}}]
  volumeClaimTemplates:
    - metadata: {name: data}
      spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
"""

SIMULATED = """
apiVersion: v1
kind: Pod
metadata: {name: simulated, namespace: PLACE}
spec:
  nodeSelector: {type: simulated}
  tolerations: [{key: kwok.x-k8s.io/node, operator: Exists}]
  securityContext: {runAsNonRoot: true, runAsUser: 1001, seccompProfile: {type: RuntimeDefault}}
  containers:
    - name: nothing
      image: example.invalid/nothing:1
      resources: {requests: {memory: 16Mi}}
      securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
"""
