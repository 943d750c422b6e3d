// Asks lora-packet, which nobody here wrote, about LoRaWAN frames: one JSON request a line in, one answer a line out.
// All bytes are hex; numbers of several bytes are written big-endian, as lora-packet keeps them.
"use strict";
const { fromFields, fromWire, verifyMIC, recalculateMIC, decrypt, decryptJoinAccept, generateSessionKeys10 } =
  require("lora-packet");
const lines = require("node:readline").createInterface({ input: process.stdin });
const bytes = (hex) => Buffer.from(hex, "hex");
const upper = (counter) => Buffer.from([(counter >>> 16) & 255, counter >>> 24]);

function dissected(packet, keys, counter) {
  const said = { mtype: packet.getMType(), mic: verifyMIC(packet, keys.network, undefined, upper(counter)) };
  said.dev_addr = packet.DevAddr.toString("hex");
  said.counter = packet.getFCnt();
  said.port = packet.getFPort();
  said.options = packet.FOpts.toString("hex");
  said.adr = packet.getFCtrlADR();
  said.adr_ack_req = packet.getFCtrlADRACKReq();
  said.ack = packet.getFCtrlACK();
  said.pending = packet.getFCtrlFPending();
  said.payload = packet.FRMPayload ? decrypt(packet, keys.application, keys.network, upper(counter)).toString("hex") : "";
  return said;
}

const answers = {
  read({ wire, network, application, counter }) {
    return dissected(fromWire(bytes(wire)), { network: bytes(network), application: bytes(application) }, counter);
  },
  write({ mtype, dev_addr, control, options, port, payload, network, application, counter }) {
    const fields = { MType: mtype, DevAddr: bytes(dev_addr), FCtrl: control, FOpts: bytes(options) };
    fields.FCnt = bytes((counter & 0xffff).toString(16).padStart(4, "0"));
    if (port !== null) Object.assign(fields, { FPort: port, payload: bytes(payload) });
    else fields.payload = Buffer.alloc(0);
    const packet = fromFields(fields, bytes(application), bytes(network), undefined, upper(counter));
    recalculateMIC(packet, bytes(network), undefined, upper(counter));
    packet._mergeGroupFields();
    return { wire: packet.PHYPayload.toString("hex") };
  },
  join_request({ wire, app_key }) {
    const packet = fromWire(bytes(wire));
    return {
      mtype: packet.getMType(),
      mic: verifyMIC(packet, undefined, bytes(app_key)),
      join_eui: packet.AppEUI.toString("hex"),
      dev_eui: packet.DevEUI.toString("hex"),
      dev_nonce: packet.DevNonce.toString("hex"),
    };
  },
  write_join_request({ join_eui, dev_eui, dev_nonce, app_key }) {
    const fields = { MType: "Join Request", AppEUI: bytes(join_eui), DevEUI: bytes(dev_eui), DevNonce: bytes(dev_nonce) };
    return { wire: fromFields(fields, undefined, undefined, bytes(app_key)).PHYPayload.toString("hex") };
  },
  join_accept({ wire, app_key, dev_nonce }) {
    const packet = fromWire(decryptJoinAccept(fromWire(bytes(wire)), bytes(app_key)));
    const keys = generateSessionKeys10(bytes(app_key), packet.NetID, packet.AppNonce, bytes(dev_nonce));
    return {
      mic: verifyMIC(packet, undefined, bytes(app_key)),
      app_nonce: packet.AppNonce.toString("hex"),
      net_id: packet.NetID.toString("hex"),
      dev_addr: packet.DevAddr.toString("hex"),
      settings: packet.DLSettings.toString("hex"),
      rx_delay: packet.RxDelay[0],
      cf_list: packet.CFList.toString("hex"),
      network: keys.NwkSKey.toString("hex"),
      application: keys.AppSKey.toString("hex"),
    };
  },
  write_join_accept({ app_nonce, net_id, dev_addr, settings, rx_delay, cf_list, app_key }) {
    const fields = { MType: "Join Accept", AppNonce: bytes(app_nonce), NetID: bytes(net_id), DevAddr: bytes(dev_addr) };
    Object.assign(fields, { DLSettings: bytes(settings), RxDelay: rx_delay, CFList: bytes(cf_list) });
    const packet = fromFields(fields, undefined, undefined, bytes(app_key));
    return { wire: Buffer.concat([packet.MHDR, packet.MACPayloadWithMIC]).toString("hex") };
  },
};

lines.on("line", (line) => {
  const asked = JSON.parse(line);
  let answer;
  try {
    answer = answers[asked.ask](asked);
  } catch (error) {
    answer = { error: String(error) };
  }
  process.stdout.write(JSON.stringify(answer) + "\n");
});
