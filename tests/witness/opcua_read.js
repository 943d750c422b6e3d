// What a client that nobody here wrote makes of a simulated pumping station: node-opcua, over
// Basic256Sha256 with SignAndEncrypt. One JSON object on stdout.
//
//     node opcua_read.js URL OBJECT CERTIFICATE KEY FOLDER
"use strict";

const [url, object, certificateFile, privateKeyFile, folder] = process.argv.slice(2);
const {
  AttributeIds,
  DataType,
  MessageSecurityMode,
  OPCUAClient,
  SecurityPolicy,
  TimestampsToReturn,
  Variant,
  makeBrowsePath,
} = require("node-opcua-client");

const { OPCUACertificateManager } = require("node-opcua-certificate-manager");

const NAMESPACE = "urn:luciole:pumping-station";

async function main() {
  const clientCertificateManager = new OPCUACertificateManager({
    rootFolder: folder,
    automaticallyAcceptUnknownCertificate: true,
  });
  await clientCertificateManager.initialize();
  const client = OPCUAClient.create({
    applicationUri: "urn:luciole:cabinet:cabinet-1",
    certificateFile,
    privateKeyFile,
    clientCertificateManager,
    securityPolicy: SecurityPolicy.Basic256Sha256,
    securityMode: MessageSecurityMode.SignAndEncrypt,
    connectionStrategy: { maxRetry: 1 },
    endpointMustExist: false,
  });
  await client.connect(url);
  const session = await client.createSession();
  const index = (await session.readNamespaceArray()).indexOf(NAMESPACE);

  async function nodeAt(path) {
    const steps = path.split("/").map((name) => `/${index}:${name}`).join("");
    const result = await session.translateBrowsePath(makeBrowsePath("ObjectsFolder", `/${index}:${object}${path && steps}`));
    return result.targets[0].targetId;
  }

  async function value(path) {
    const read = await session.read({ nodeId: await nodeAt(path), attributeId: AttributeIds.Value });
    return { value: read.value.value, type: DataType[read.value.dataType], status: read.statusCode.name };
  }

  const read = {};
  for (const path of ["Level", "Inflow", "WaterTemperature", "Mode", "HighLevel", "Pump1/Running", "Pump1/Starts"]) {
    read[path] = await value(path);
  }

  const subscription = await session.createSubscription2({
    requestedPublishingInterval: 50,
    requestedLifetimeCount: 100,
    requestedMaxKeepAliveCount: 10,
    maxNotificationsPerPublish: 100,
    publishingEnabled: true,
    priority: 0,
  });
  const heard = [];
  const item = await subscription.monitor(
    { nodeId: await nodeAt("Mode"), attributeId: AttributeIds.Value },
    { samplingInterval: 50, discardOldest: true, queueSize: 10 },
    TimestampsToReturn.Both,
  );
  const changed = new Promise((resolve) => {
    item.on("changed", (dataValue) => {
      heard.push(dataValue.value.value);
      if (dataValue.value.value === 2) resolve();
    });
  });

  const objectId = await nodeAt("");
  async function call(method, dataType, argument) {
    const result = await session.call({
      objectId,
      methodId: await nodeAt(method),
      inputArguments: [new Variant({ dataType, value: argument })],
    });
    return result.statusCode.name;
  }
  const calls = {
    tooEarly: await call("StartPump", DataType.UInt32, 1),
    mode: await call("SetMode", DataType.Int32, 2),
    start: await call("StartPump", DataType.UInt32, 1),
    nonsense: await call("SetMode", DataType.Int32, 7),
  };
  await changed;

  async function write(path, number) {
    const written = await session.write({
      nodeId: await nodeAt(path),
      attributeId: AttributeIds.Value,
      value: { value: new Variant({ dataType: DataType.Double, value: number }) },
    });
    return written.name;
  }
  const writes = { setpoint: await write("LevelSetpoint", 2.5), level: await write("Level", 1.0) };
  const after = { running: await value("Pump1/Running"), setpoint: await value("LevelSetpoint") };

  await subscription.terminate();
  await session.close();
  await client.disconnect();
  process.stdout.write(JSON.stringify({ read, heard, calls, writes, after }) + "\n");
  process.exit(0);
}

main().catch((error) => {
  process.stderr.write(`${error.stack}\n`);
  process.exit(1);
});
